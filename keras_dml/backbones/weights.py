"""Weights of backbones out of files: PyTorch checkpoints, Keras h5 files of both formats, saved Keras models."""

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_dml.backbones.registry import torch_backbones, traits
from keras_dml.backbones.torch_checkpoint import read_state_dict
from keras_dml.utils.keras_archive import check_keras_archive, check_weights

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".safetensors")
# Classifiers of the networks, which an embedding network does not have.
_CLASSIFIERS = ("fc.", "last_linear.", "classifier.", "head.", "aux1.", "aux2.")
_KERAS_CLASSIFIERS = ("predictions", "Logits", "logits", "classifier", "fc1", "fc2", "fc1000", "dense", "head")
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What a file's weights went into.

    Args:
        source: The file.
        loaded: Number of arrays that were assigned; always all of the model's.
        unused: Names in the file that the model has no place for: its classifier.
    """

    source: str
    loaded: int
    unused: tuple[str, ...]


def load_backbone_weights(backbone: keras.Model, path: str | os.PathLike[str]) -> LoadReport:
    """Loads all weights of a backbone from a file; the model stays as it was if anything does not fit.

    Args:
        backbone: The model to fill.
        path: A PyTorch checkpoint (`.pth`, `.pt`, `.safetensors`; read without executing it), a Keras `.h5` or
            `.weights.h5`, or a model saved as `.keras`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If weights of the model are missing in the file, have another shape or are not finite, or if the
            file has weights beside a classifier that the model lacks; the names and shapes are listed.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'There is no weights file {path}. Give "imagenet", None, or a file that exists.')
    if path.suffix in TORCH_SUFFIXES:
        return _load_torch(backbone, path)
    if path.suffix == ".keras":
        return _load_saved_model(backbone, path)
    if path.suffix in (".h5", ".hdf5"):
        return _load_h5(backbone, path)
    raise ValueError(
        f"The weights file must end in .h5, .weights.h5, .keras, {', '.join(TORCH_SUFFIXES)}. Received: {path}"
    )


def weighted_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model that own weights, those of models inside it included, in order."""
    for layer in model.layers:
        if isinstance(layer, keras.Model) and layer.layers:
            yield from weighted_layers(layer)
        elif layer.weights:
            yield layer


def torch_state(model: keras.Model) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """PyTorch's name of each weight, with the Keras variable and the shape that PyTorch stores.

    Args:
        model: A model of convolutions and batch normalizations that are named like PyTorch's modules.
    """
    state: dict[str, tuple[Any, tuple[int, ...]]] = {}
    for layer in weighted_layers(model):
        if isinstance(layer, keras.layers.Conv2D):
            height, width, channels, filters = layer.kernel.shape
            state[f"{layer.name}.weight"] = (layer.kernel, (filters, channels, height, width))
            if layer.use_bias:
                state[f"{layer.name}.bias"] = (layer.bias, tuple(layer.bias.shape))
        elif isinstance(layer, keras.layers.BatchNormalization):
            variables = (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
            for name, variable in zip(("weight", "bias", "running_mean", "running_var"), variables, strict=True):
                state[f"{layer.name}.{name}"] = (variable, tuple(variable.shape))
        else:
            raise ValueError(
                f"{model.name} has a {type(layer).__name__} ({layer.name}), unlike any PyTorch network here"
            )
    return state


def _load_torch(backbone: keras.Model, path: pathlib.Path) -> LoadReport:
    if traits(backbone.name).torch_origin is None or not _has_torch_names(backbone):
        raise ValueError(
            f'PyTorch checkpoints fit {", ".join(torch_backbones())} (resnet50 in its form "torchvision"). '
            f"Received: {path} for the backbone {backbone.name}"
        )
    wanted = torch_state(backbone)
    found = {name: value for name, value in read_state_dict(path).items() if not name.endswith("num_batches_tracked")}
    prefix = _prefix(found, wanted)
    found = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    pairs, missing, misshapen = [], [], []
    for name, (variable, shape) in wanted.items():
        if name not in found:
            missing.append(f"{name} {shape}")
            continue
        value = found[name]
        if value.ndim == len(shape) + 1 and value.shape[0] == 1:
            # The published BN-Inception stores its batch normalizations as (1, channels).
            value = value[0]
        if value.shape != shape:
            misshapen.append(f"{name}: {value.shape} in the file, {shape} in the model")
            continue
        pairs.append((name, variable, value.transpose(2, 3, 1, 0) if value.ndim == 4 else value))
    unused = tuple(name for name in found if name not in wanted)
    strange = [f"{name} {found[name].shape}" for name in unused if not name.startswith(_CLASSIFIERS)]
    _complain(backbone, path, missing, misshapen, strange)
    _assign(path, pairs)
    return LoadReport(str(path), len(pairs), unused)


def _has_torch_names(backbone: keras.Model) -> bool:
    names = {layer.name for layer in weighted_layers(backbone)}
    return bool(names & {"conv1", "conv1.conv", "conv1_7x7_s2"})


def _prefix(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What stands before the network's own names (`module.` of a data-parallel model, and the like)."""
    first = next(iter(wanted))
    prefixes = {name.removesuffix(first) for name in found if name == first or name.endswith(f".{first}")}
    return max(sorted(prefixes), key=lambda prefix: sum(prefix + name in found for name in wanted), default="")


def _load_h5(backbone: keras.Model, path: pathlib.Path) -> LoadReport:
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file: {error}") from error
    check_weights(path, path, path.stat().st_size)
    with file:
        group = file.get("model_weights", file)
        legacy = _attribute(group, "layer_names")
        arrays = {name: _layer_arrays(group[name]) for name in legacy if name in group}
    if not legacy:
        # The Keras 3 format, which Keras itself compares with the model.
        if not path.name.endswith(".weights.h5"):
            raise ValueError(f"{path} has no layers of the older h5 format. If Keras 3 wrote it, name it *.weights.h5")
        before = backbone.get_weights()
        try:
            backbone.load_weights(path)
        except Exception as error:
            backbone.set_weights(before)
            raise ValueError(f"{path} does not fit the backbone {backbone.name}: {error}") from error
        return LoadReport(str(path), len(backbone.weights), ())
    return _match_layers(backbone, path, {name: values for name, values in arrays.items() if values})


def _attribute(group: Any, name: str) -> list[str]:
    """A list of names; Keras splits long ones into `name0`, `name1`, ..."""
    chunks = [name] if name in group.attrs else []
    while f"{name}{len(chunks)}" in group.attrs and name not in group.attrs:
        chunks.append(f"{name}{len(chunks)}")
    values = [value for chunk in chunks for value in group.attrs[chunk]]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _layer_arrays(group: Any) -> list[np.ndarray]:
    return [np.asarray(group[name]) for name in _attribute(group, "weight_names")]


def _load_saved_model(backbone: keras.Model, path: pathlib.Path) -> LoadReport:
    # Imported here, as an encoder is made of backbones.
    from keras_dml.image_encoder import load_keras_model

    saved = load_keras_model(path)
    arrays = {layer.name: [np.asarray(value) for value in layer.get_weights()] for layer in weighted_layers(saved)}
    # A saved encoder: its linear layer is no part of the backbone.
    unwanted = {"embedding"} - {layer.name for layer in weighted_layers(backbone)}
    return _match_layers(backbone, path, {name: v for name, v in arrays.items() if name not in unwanted})


def _saved_config(path: pathlib.Path) -> bytes:
    """The architecture in a `.keras` file, JSON."""
    check_keras_archive(path)
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json")


def _match_layers(backbone: keras.Model, path: pathlib.Path, arrays: Mapping[str, Sequence[np.ndarray]]) -> LoadReport:
    """Assigns arrays to layers of the same name, or of the same place where all names differ only in numbering."""
    wanted = {layer.name: layer for layer in weighted_layers(backbone)}
    kept = {name: values for name, values in arrays.items() if name in wanted or not _is_classifier(name)}
    if not set(kept) >= set(wanted) and len(kept) == len(wanted):
        shapes = [[tuple(weight.shape) for weight in layer.weights] for layer in wanted.values()]
        if shapes == [[value.shape for value in values] for values in kept.values()]:
            kept = dict(zip(wanted, kept.values(), strict=True))
    pairs, missing, misshapen = [], [], []
    for name, layer in wanted.items():
        # The order of the older h5 files.
        variables = [*layer.trainable_weights, *layer.non_trainable_weights] if layer.trainable else layer.weights
        expected = [tuple(variable.shape) for variable in variables]
        if name not in kept:
            missing.append(f"{name} {expected}")
        elif [value.shape for value in kept[name]] != expected:
            shapes_found = [value.shape for value in kept[name]]
            misshapen.append(f"{name}: {shapes_found} in the file, {expected} in the model")
        else:
            pairs += [(name, *pair) for pair in zip(variables, kept[name], strict=True)]
    strange = [f"{name} {[value.shape for value in kept[name]]}" for name in kept if name not in wanted]
    _complain(backbone, path, missing, misshapen, strange)
    _assign(path, pairs)
    return LoadReport(str(path), len(pairs), tuple(name for name in arrays if name not in kept))


def _is_classifier(name: str) -> bool:
    return name.startswith(_KERAS_CLASSIFIERS)


def _complain(
    backbone: keras.Model,
    path: pathlib.Path,
    missing: Sequence[str],
    misshapen: Sequence[str],
    strange: Sequence[str],
) -> None:
    kinds = (
        ("missing in the file", missing),
        ("of another shape", misshapen),
        ("in the file, but not in the model", strange),
    )
    lines = []
    for title, names in kinds:
        if names:
            more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"\n  {len(names)} {title}: {'; '.join(names[:_SHOWN])}{more}")
    if lines:
        raise ValueError(
            f"{path} does not fit the backbone {backbone.name}; nothing was loaded. Check the architecture and its "
            f"options (alpha, form).{''.join(lines)}"
        )


def _assign(path: pathlib.Path, pairs: Sequence[tuple[str, Any, np.ndarray]]) -> None:
    values = [np.asarray(value, "float32") for _, _, value in pairs]
    broken = [name for (name, _, _), value in zip(pairs, values, strict=True) if not np.isfinite(value).all()]
    if broken:
        raise ValueError(f"{path} has values that are not finite, in: {', '.join(broken[:_SHOWN])}; nothing was loaded")
    for (_, variable, _), value in zip(pairs, values, strict=True):
        variable.assign(value)


def keras_resnet50_file(path: str | os.PathLike[str]) -> bool:
    """Whether a Keras file holds `keras.applications.ResNet50` rather than torchvision's form of the network."""
    import h5py

    path = pathlib.Path(path)
    if not path.is_file():
        return False
    if path.suffix == ".keras":
        return b'"conv1_conv"' in _saved_config(path)
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        group = file.get("model_weights", file)
        names = _attribute(group, "layer_names")
        # The Keras 3 format has no names; Keras's first convolution has a bias, torchvision's has none.
        return "conv1_conv" in names or "layers/conv2d/vars/1" in group
