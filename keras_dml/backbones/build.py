"""Encoders: a backbone, global pooling, a linear layer, L2 normalization."""

import inspect
from collections.abc import Mapping
from typing import Any

import keras
from keras import layers

from keras_dml.backbones.applications import application, application_names, find_application
from keras_dml.backbones.hub import PREFIX, hub_backbone, image_tower, is_hub_backbone, prefix_tokens, with_pixel_values
from keras_dml.backbones.registry import BACKBONES, Weights, traits
from keras_dml.backbones.weights import LoadReport, load_backbone_weights
from keras_dml.typing import Tensor
from keras_dml.utils.suggestions import unknown_name

POOLINGS = ("avg", "max", "avg+max", "class_token")
EMBEDDING_INITS = ("glorot_uniform", "torch")
# Arguments of builders that are no options: given by `build`, or part of the head that the backbone is without.
_NO_OPTIONS = frozenset(
    {"input_shape", "keras_weights", "include_top", "weights", "input_tensor", "pooling", "classes"}
)


def build(
    name: str | keras.Model,
    embedding_dim: int | None = 512,
    pooling: str = "avg",
    input_shape: tuple[int, int, int] = (224, 224, 3),
    normalize: bool = True,
    options: Mapping[str, Any] | None = None,
    weights: Weights = None,
    embedding_init: str = "glorot_uniform",
) -> keras.Model:
    """Builds an encoder: backbone, global pooling, linear layer, L2 normalization.

    The head computes in float32 under every dtype policy. Conversion of pixel values is part of the backbone.

    `resnet50` has two forms that differ in more than names (see `resnet50`). Unless `options` name one, the form is
    that of the weights: Keras's for "imagenet" and files of Keras's ResNet50, torchvision's for PyTorch checkpoints
    and without weights.

    Args:
        name: A key of `BACKBONES`; a network of `keras.applications` such as "ConvNeXtTiny"; "keras_hub:PRESET", such
            as "keras_hub:dinov2_base"; or a model from images to a feature map `(batch, h, w, channels)`, tokens
            `(batch, n, channels)` or features `(batch, channels)`, which is used itself rather than copied.
        embedding_dim: Width d of the embedding; None leaves out the linear layer.
        pooling: "avg", "max", or "avg+max" (their sum, "double" pooling of DAS Table 1), over positions or patch
            tokens; "class_token" takes a transformer's first token. A model's `(batch, channels)` are taken as is.
        input_shape: `(height, width, channels)` of the images, where `name` is a string.
        normalize: Whether embeddings are scaled to unit length.
        options: Further arguments of the backbone's builder (`alpha`, `form`, `widths`, ...). For a model: `scale` and
            `offset`, where it expects `images * scale + offset` rather than [0, 255].
        weights: None for fresh weights; "imagenet" to download Keras's (for keras-hub, the preset's); or a file:
            `.h5`, `.weights.h5`, `.keras`, or for ResNet-50, BN-Inception and GoogLeNet a public PyTorch checkpoint
            (`.pth`, `.pt`, `.safetensors`), read without executing it. The head starts afresh in any case.
        embedding_init: What the linear layer starts from: "glorot_uniform", Keras's default, or "torch", that of
            PyTorch's `Linear`: kernel and bias uniform in +-1 / sqrt(features). For 2048 features and d = 512 the
            kernel's standard deviation is .028 or .013.

    Returns:
        A model from `(batch, height, width, channels)` float32 images in [0, 255] to `(batch, d)` float32 embeddings.

    Raises:
        ValueError: For unknown names, weights that do not exist for a backbone, and files that do not fit it.
        RuntimeError: If weights cannot be downloaded.
        ImportError: For a backbone of keras-hub without that package.
    """
    if pooling not in POOLINGS:
        raise ValueError(unknown_name("pooling", pooling, POOLINGS))
    if embedding_dim is not None and embedding_dim < 1:
        raise ValueError(f"`embedding_dim` must be positive. Received: embedding_dim={embedding_dim}")
    if embedding_init not in EMBEDDING_INITS:
        raise ValueError(unknown_name("embedding_init", embedding_init, EMBEDDING_INITS))
    backbone = build_backbone(name, input_shape, options, weights)
    x = _pool(backbone, pooling)
    if embedding_dim is not None:
        initializers = _torch_initializers(x.shape[-1]) if embedding_init == "torch" else {}
        x = layers.Dense(embedding_dim, dtype="float32", name="embedding", **initializers)(x)
    if normalize:
        # Some networks of Keras (EfficientNet) have a layer of that name.
        taken = {layer.name for layer in backbone.layers}
        name = "unit_normalization" if "normalization" in taken else "normalization"
        x = layers.UnitNormalization(dtype="float32", name=name)(x)
    return keras.Model(backbone.input, x, name=f"{backbone.name}_encoder")


def build_backbone(
    name: str | keras.Model,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    options: Mapping[str, Any] | None = None,
    weights: Weights = None,
) -> keras.Model:
    """The backbone of `build` alone, from images in [0, 255] to features; arguments as there."""
    return backbone_with_report(name, input_shape, options, weights)[0]


def backbone_with_report(
    name: str | keras.Model,
    input_shape: tuple[int, int, int],
    options: Mapping[str, Any] | None,
    weights: Weights,
) -> tuple[keras.Model, LoadReport | None]:
    """`build_backbone`, and what the weights of a file went into."""
    options = dict(options or {})
    if not isinstance(name, str | keras.Model):
        raise ValueError(f"A backbone is a name or a keras.Model. Received: {name!r} of type {type(name).__name__}")
    download = weights == "imagenet"
    if isinstance(name, keras.Model):
        backbone = _from_model(name, input_shape, options)
        if download:
            raise ValueError(
                f'weights="imagenet" needs a backbone by name. Received: the model {name.name}; load its weights first.'
            )
    elif name.startswith(PREFIX):
        backbone = hub_backbone(name.removeprefix(PREFIX), input_shape, load_weights=download, **options)
    else:
        backbone = _by_name(name, input_shape, options, weights)
    report = None if weights is None or download else load_backbone_weights(backbone, weights)
    return backbone, report


def _from_model(model: keras.Model, input_shape: tuple[int, int, int], options: dict[str, Any]) -> keras.Model:
    strange = set(options) - {"scale", "offset"}
    if strange:
        raise ValueError(unknown_name("option of a model as backbone:", min(strange), ("scale", "offset")))
    model = image_tower(model)
    functional = getattr(model, "inputs", None)
    if functional and len(functional) != 1:
        raise ValueError(f"A backbone has one input. Received: the model {model.name} with {len(functional)} inputs")
    # Those of keras-hub take dicts, and names of their layers would meet those of the head.
    if functional and not options and not is_hub_backbone(model):
        return model
    shape = tuple(model.inputs[0].shape[1:]) if functional else input_shape
    return with_pixel_values(model, input_shape if None in shape else shape, **options)


def _by_name(name: str, input_shape: tuple[int, int, int], options: dict[str, Any], weights: Weights) -> keras.Model:
    download = weights == "imagenet"
    plain = name.replace("_", "").replace("-", "").lower()
    own = next((known for known in BACKBONES if known.replace("_", "") == plain), None)
    network = find_application(name)
    if own is None and network is None:
        known = (*BACKBONES, *application_names(), f"{PREFIX}PRESET")
        raise ValueError(unknown_name("backbone", name, known))
    builder = BACKBONES[own] if own else getattr(keras.applications, str(network))
    allowed = set(inspect.signature(builder).parameters) - _NO_OPTIONS
    strange = set(options) - allowed
    if strange:
        raise ValueError(unknown_name(f"option of {own or network}:", min(strange), allowed))
    options_for = traits(own).options_for if own else None
    if options_for is not None:
        options = {**options_for(weights), **options}
    if not download:
        return builder(input_shape, **options) if own else application(str(network), input_shape, **options)
    if own and "keras_weights" not in inspect.signature(builder).parameters:
        origin = traits(own).torch_origin
        if origin is None:
            raise ValueError(f'{own} has no ImageNet weights. Received: weights="imagenet"; use None or a file.')
        raise ValueError(
            f"Keras has no ImageNet weights for {own}. Download {origin} and pass weights=FILE; it is read without "
            'PyTorch. Received: weights="imagenet"'
        )
    try:
        if own:
            return builder(input_shape, keras_weights="imagenet", **options)
        return application(str(network), input_shape, "imagenet", **options)
    except (ValueError, TypeError):
        raise  # An option that Keras has no weights for; its message says which it has.
    except Exception as error:
        raise RuntimeError(
            f"Keras could not download the ImageNet weights of {name}: {error}. Download that file on another machine "
            "and pass weights=FILE, or put it into ~/.keras/models ($KERAS_HOME/models)."
        ) from error


def _torch_initializers(features: int) -> dict[str, keras.initializers.Initializer]:
    """Arguments of a Dense layer on so many features that make it start as PyTorch's `Linear` does."""
    bound = features**-0.5
    return {
        name: keras.initializers.RandomUniform(-bound, bound) for name in ("kernel_initializer", "bias_initializer")
    }


def _pool(backbone: keras.Model, pooling: str) -> Tensor:
    features = backbone.output
    rank = len(getattr(features, "shape", ()))
    if rank == 2:
        return layers.Identity(dtype="float32", name="features")(features)
    if rank not in (3, 4):
        raise ValueError(
            f"A backbone gives one output, `(batch, h, w, c)`, `(batch, n, c)` or `(batch, c)`. Received: {features}"
        )
    if pooling == "class_token":
        if rank == 4:
            raise ValueError(f'pooling="class_token" needs a transformer. Received: feature maps of {backbone.name}')
        x = layers.Cropping1D((0, features.shape[1] - 1), dtype="float32", name="class_token")(features)
        return layers.Reshape((features.shape[2],), dtype="float32", name="pooling")(x)
    if rank == 3:
        prefix = prefix_tokens(backbone)
        if prefix:
            features = layers.Cropping1D((prefix, 0), name="patch_tokens")(features)
    dimensions = rank - 2
    average = getattr(layers, f"GlobalAveragePooling{dimensions}D")(dtype="float32", name="average_pooling")
    maximum = getattr(layers, f"GlobalMaxPooling{dimensions}D")(dtype="float32", name="max_pooling")
    if pooling == "avg":
        return average(features)
    if pooling == "max":
        return maximum(features)
    return layers.Add(dtype="float32", name="pooling")([average(features), maximum(features)])
