"""What needs no training and stands beside the arms of an experiment: `Recipe.rivals`."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from keras_dml.image_encoder import ImageEncoder
from keras_dml.utils.progress import TerminalProgress
from zoo.building import build_encoder, preprocessing
from zoo.frozen import cached_features, feature_name
from zoo.recipe import Recipe
from zoo.training import evaluate

if TYPE_CHECKING:
    from keras_dml.data import Benchmark, Split

MOST_VALUES = 2**28
"""Pixel values of one side that are held in memory at most: 1 GiB."""


def raw_pixels(recipe: Recipe, benchmark: "Benchmark") -> dict[str, float]:
    """Retrieval by the cosine of the pixel values that the encoder gets; without k-means, which takes minutes on them.

    Raises:
        ValueError: The images do not fit into memory.
    """
    sides = [None if split is None else _pixels(recipe, split) for split in (benchmark.test, benchmark.gallery)]
    assert sides[0] is not None
    recipe = dataclasses.replace(recipe, clustering=False, metric="cosine", widths=(), loss_args={})
    return evaluate(recipe, benchmark.test, benchmark.gallery, (sides[0], sides[1]))


def backbone(recipe: Recipe, benchmark: "Benchmark") -> dict[str, float]:
    """Retrieval by the cosine of the features of the backbone as it is before training, without a linear layer."""
    recipe = without_head(recipe)
    vectors = backbone_features(recipe, benchmark.test)
    gallery = None if benchmark.gallery is None else backbone_features(recipe, benchmark.gallery)
    return evaluate(recipe, benchmark.test, benchmark.gallery, (vectors, gallery))


def without_head(recipe: Recipe) -> Recipe:
    """The recipe of the first arm with the backbone alone, compared by cosine."""
    recipe = recipe.arm(next(iter(recipe.arms)))
    recipe = dataclasses.replace(recipe, embedding_dim=None, embedding_init="glorot_uniform", widths=(), loss_args={})
    return dataclasses.replace(recipe, trainable="all", lora_rank=None, clustering=False, metric="cosine")


def backbone_features(recipe: Recipe, split: "Split") -> np.ndarray:
    """`(n, d)` features of a split's images by the backbone of `without_head`."""
    encoder = build_encoder(recipe)
    image_encoder = ImageEncoder(encoder, preprocessing(recipe))
    return cached_features(feature_name(recipe, encoder), image_encoder, split, TerminalProgress())


def _pixels(recipe: Recipe, split: "Split") -> np.ndarray:
    inputs = preprocessing(recipe)
    values = len(split) * int(np.prod(inputs.input_shape))
    if values > MOST_VALUES:
        raise ValueError(
            f"The rival raw_pixels would hold {values:,} pixel values, more than {MOST_VALUES:,}. Leave it out: "
            '--set "rivals=()"'
        )
    batches = [np.asarray(batch, np.float32) for batch in split.dataset(inputs)]
    return np.concatenate([batch.reshape(len(batch), -1) for batch in batches])


RIVALS: dict[str, Callable[[Recipe, "Benchmark"], dict[str, float]]] = {"raw_pixels": raw_pixels, "backbone": backbone}
"""By the name that a recipe gives: what measures a rival."""
TITLES = {"raw_pixels": "raw pixels", "backbone": "backbone"}


def measure(recipe: Recipe, benchmark: "Benchmark") -> dict[str, dict[str, float]]:
    """The metrics of the recipe's rivals by title, as the arms are measured."""
    return {TITLES[name]: RIVALS[name](recipe, benchmark) for name in recipe.rivals}
