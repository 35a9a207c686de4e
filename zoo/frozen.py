"""Training of the linear head alone, on features of the frozen backbone that are computed once and kept."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dml.backbones.trainable_part import HEAD_LAYER
from keras_dml.data.array_cache import cache_folder, read_arrays, write_arrays
from keras_dml.image_encoder import ImageEncoder
from keras_dml.utils.progress import SILENT, Progress, TerminalProgress
from zoo.held_out import held_out_folds
from zoo.recipe import CLOSED_FORMS, Recipe
from zoo.runs.provenance import weights_identity

if TYPE_CHECKING:
    import keras

    from keras_dml.data import ImagePreprocessing, PKBatches, Split
    from zoo.runs.results import Sides

SHRINKAGES = (0.03, 0.1, 0.3, 0.6, 1.0)
"""Among which held-out training classes choose."""
BLOCK = 64
"""Images of a forward pass."""
PART = 1024
"""Images between two writes of the cache."""

_FITTED: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]] = {}
"""Closed forms of this process, which the arms and seeds of an experiment share."""


def is_frozen(recipe: Recipe) -> bool:
    """Whether every epoch sees the same features: the head alone trains, on images that are not varied."""
    return recipe.trainable == "head" and recipe.augment is None and recipe.embedding_dim is not None


class FrozenEncoder:
    """An encoder as its backbone with pooling, and its head: the linear layer with what follows.

    The head is made of the encoder's own layers: what trains it trains the encoder.

    Args:
        encoder: A model of `keras_dml.backbones.build` with a linear layer.
        preprocessing: How images become its input.
        recipe: Whose backbone it is; tells the cached features of one backbone from those of another.
    """

    def __init__(self, encoder: "keras.Model", preprocessing: "ImagePreprocessing", recipe: Recipe) -> None:
        import keras

        linear = encoder.get_layer(HEAD_LAYER)
        self.backbone = keras.Model(encoder.input, linear.input)
        self._preprocessing = preprocessing
        inputs = keras.Input(linear.input.shape[1:])
        outputs = linear(inputs)
        behind = encoder.layers[encoder.layers.index(linear) + 1 :]
        for layer in behind:
            outputs = layer(outputs)
        self.head = keras.Model(inputs, outputs)
        self._linear = linear
        self._name = feature_name(recipe, self.backbone)
        self._progress = TerminalProgress()

    def features(self, split: "Split") -> np.ndarray:
        """`(n, d)` float32 features of the images of a split; see `cached_features`."""
        return cached_features(self._name, ImageEncoder(self.backbone, self._preprocessing), split, self._progress)

    def start(self, recipe: Recipe, split: "Split") -> None:
        """Puts a closed form into the linear layer, where `embedding_init` names one.

        Args:
            recipe: Whose `embedding_init`; the shrinkage of "whitening" is chosen on held-out classes of `split`.
            split: The training images.
        """
        if recipe.embedding_init in CLOSED_FORMS:
            dim = int(self._linear.units)
            key = (self._name, split.fingerprint, recipe.embedding_init, dim)
            if key not in _FITTED:
                _FITTED[key] = closed_form(recipe.embedding_init, self.features(split), split, dim)
            self._linear.set_weights(_FITTED[key])

    def side(self, split: "Split | None") -> tuple[np.ndarray, np.ndarray] | None:
        """Features and labels of a split, as `RetrievalEvaluation` takes them."""
        return None if split is None else (self.features(split), split.labels)

    def embed(self, query: "Split", gallery: "Split | None") -> "Sides":
        """Embeddings of one side or two, as the head is now."""
        first: np.ndarray = self.head.predict(self.features(query), verbose=0)
        return first, None if gallery is None else self.head.predict(self.features(gallery), verbose=0)

    def batches(
        self, batches: "PKBatches", features: np.ndarray, first: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of `batches` from step `first` on, of features instead of images, without end."""
        step = first
        while True:
            rows = batches.rows(step)
            yield features[rows], batches.split.labels[rows]
            step += 1


def closed_form(name: str, features: np.ndarray, split: "Split", dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a linear layer.

    Args:
        name: One of `CLOSED_FORMS`.
        features: `(n, d)` of the images of `split`.
        split: The training images.
        dim: Width of the embedding.
    """
    from keras_dml.backbones.closed_forms import pca, within_class_whitening
    from keras_dml.evaluation import evaluate_retrieval

    if name == "pca":
        return pca(features, dim)
    folds = held_out_folds(split)

    def score(shrinkage: float) -> float:
        values = []
        for fold in folds:
            rows = fold.train
            kernel, bias = within_class_whitening(features[rows], split.labels[rows], dim, shrinkage)
            rows = fold.validation
            found = evaluate_retrieval(features[rows] @ kernel + bias, split.labels[rows], ks=(1,))
            values.append(found.map_at_r)
        return float(np.mean(values))

    # With too few classes to hold some out, what is in the middle.
    best = max(SHRINKAGES, key=score) if folds else SHRINKAGES[len(SHRINKAGES) // 2]
    return within_class_whitening(features, split.labels, dim, best)


def feature_name(recipe: Recipe, backbone: "keras.Model") -> str:
    """What tells the features of a backbone from those of another: 16 hexadecimal digits."""
    known = weights_identity(recipe.weights)
    digest = hashlib.sha256()
    fields = (recipe.backbone, dict(recipe.backbone_options), recipe.pooling, recipe.input_size, recipe.resize)
    digest.update(repr((fields, recipe.channels, recipe.precision)).encode())
    if isinstance(known, dict):
        digest.update(known["sha256"].encode())
    else:
        # Weights that were drawn, or that a library downloads.
        for array in backbone.get_weights():
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def cached_features(name: str, encoder: ImageEncoder, split: "Split", progress: Progress = SILENT) -> np.ndarray:
    """Features of a split's images, computed where they are not in the cache.

    Of image files the cache knows path, size and time of the last change: a photo that has changed is computed again,
    and it alone. Other images are not cached.

    Args:
        name: Tells the encoder's features from those of others.
        encoder: Computes them.
        split: The images.
        progress: Is told how many are computed.

    Returns:
        `(n, d)` float32.
    """
    if split.paths is None or split.source.boxes is not None:
        return encoder.embed(split, BLOCK, progress)
    path = cache_folder() / "features" / f"{name}.npz"
    keys = [_key(file) for file in split.paths]
    known = _read(path, encoder.embedding_dim)
    missing = [row for row, key in enumerate(keys) if key not in known]
    # In parts, so that an interruption costs the last of them alone.
    for start in range(0, len(missing), PART):
        rows = missing[start : start + PART]
        made = encoder.embed(split.subset(rows, renumber=False), BLOCK, _Part(progress, start, len(missing)))
        known.update({keys[row]: vector for row, vector in zip(rows, made, strict=True)})
        _write(path, known)
    return np.stack([known[key] for key in keys])


@dataclasses.dataclass
class _Part(Progress):
    """Progress of a part of the whole."""

    whole: Progress
    before: int
    total: int

    def advance(self, stage: str, done: float, total: float, note: str = "") -> None:
        self.whole.advance("features", self.before + done, self.total, note)


def _key(file: str) -> str:
    found = os.stat(file)
    return f"{os.path.abspath(file)}\0{found.st_size}\0{found.st_mtime_ns}"


def _read(path: pathlib.Path, dim: int) -> dict[str, np.ndarray]:
    arrays = read_arrays(path)
    if arrays is None or arrays.get("features", np.empty(0)).shape != (len(arrays.get("keys", ())), dim):
        return {}
    return dict(zip(arrays["keys"].tolist(), arrays["features"], strict=True))


def _write(path: pathlib.Path, known: dict[str, Any]) -> None:
    write_arrays(path, {"keys": np.array(list(known)), "features": np.stack(list(known.values()))})
