"""Training augmentation by the image layers of Keras."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dml.data.images.preprocessing import ImagePreprocessing
from keras_dml.utils.requirements import uses_tensorflow
from keras_dml.utils.suggestions import unknown_name

MIXING = ("CutMix", "MixUp")
"""Layers that mix images of several classes, which have no class then."""
UNSEEDED = ("AugMix",)
"""Layers that choose their operations with Python's `random` while their graph is made, once for all images."""


class LayerAugmentation:
    """Image layers of Keras, one after the other, as an `augment` of `PKBatches`; draws depend on `seed` alone.

    Layers of Keras draw from a state that counts their calls, so that the same image would be varied in another way in
    a training that goes on where it was interrupted. Here every draw of every layer comes from the seed of the image
    and the place of the draw; a layer's own `seed` means nothing. That holds for the layers that Keras derives from its
    base of image layers, those with `get_random_transformation`. No others are taken: what GaussianNoise or a layer of
    your own draws from is not known.

    The layers see one image at a time, `(size, size, channels)` float32 in [0, 255], and give one of that shape.

    Args:
        layers: Such layers. They are changed: another augmentation needs others.
        preprocessing: How the image gets to the encoder's size before them.
        first: A `RandomResizedCrop`, `RandomAffine` or another `augment(image, seed)` in place of `preprocessing`.

    Raises:
        ValueError: For a layer that is no image layer of Keras, mixes images of several classes, or cannot be seeded.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        preprocessing: ImagePreprocessing,
        first: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        for layer in layers:
            name = type(layer).__name__
            if not hasattr(layer, "get_random_transformation"):
                raise ValueError(
                    "An augmentation must be an image layer of Keras, such as RandAugment or RandomFlip. "
                    f"Received: {name}"
                )
            if name in MIXING:
                raise ValueError(
                    f"{name} mixes images of several classes, and losses of pairs need one class for each image. Use "
                    "another layer"
                )
            if name in UNSEEDED:
                raise ValueError(
                    f"{name} draws from Python's random module, once for a whole training and anew when it goes on, so "
                    "no seed makes it repeatable. Use RandAugment"
                )
        self.layers = list(layers)
        self.preprocessing = preprocessing
        self.first = first
        self._draws = _Draws()
        # One image after another: layers count their draws while a graph is traced, or eagerly.
        self._lock = threading.Lock()
        for layer in self.layers:
            for one in layer._flatten_layers():
                # Where Keras's own would draw from a state.
                one._get_seed_generator = self._seed_generator

    def _seed_generator(self, backend: str | None = None) -> "keras.random.SeedGenerator":
        return self._draws

    def __call__(self, image: Any, seed: Any) -> Any:
        """Augments one image.

        Under Keras's TensorFlow backend by TensorFlow's ops, in a graph or not; else by those of the backend, one image
        at a time, from other draws than TensorFlow's.

        Args:
            image: `(height, width, 1 or 3)` in [0, 255], any numeric dtype.
            seed: `(2,)` integers.

        Returns:
            `(size, size, channels)` float32, in [0, 255] unless a layer was told of another range.
        """
        tensors = uses_tensorflow(image, seed)
        image = self.preprocessing(image) if self.first is None else self.first(image, seed)
        if not tensors:
            return self._by_backend(image, seed)
        import tensorflow as tf

        return tf.ensure_shape(tf.cast(self._varied(image, seed), tf.float32), self.preprocessing.input_shape)

    def _by_backend(self, image: Any, seed: Any) -> np.ndarray:
        image = ops.convert_to_numpy(self._varied(ops.convert_to_tensor(image), seed)).astype(np.float32)
        if image.shape != self.preprocessing.input_shape:
            raise ValueError(f"Expected: an image of {self.preprocessing.input_shape}. Found: {image.shape}")
        return image

    def _varied(self, image: Any, seed: Any) -> Any:
        with self._lock:
            self._draws.begin(seed)
            for layer in self.layers:
                image = layer(image, training=True)
        return image


def image_layer(name: str, arguments: dict[str, Any]) -> Any:
    """An image layer of Keras by the name of its class.

    Raises:
        ValueError: For an unknown name, with the nearest, or arguments that the layer does not take.
    """
    if name not in image_layer_names():
        raise ValueError(unknown_name("image layer of Keras:", name, image_layer_names()))
    return getattr(keras.layers, name)(**arguments)


def image_layer_names() -> list[str]:
    """The image layers of Keras that vary one image."""
    found = [name for name in dir(keras.layers) if hasattr(getattr(keras.layers, name), "get_random_transformation")]
    return sorted(set(found) - {*MIXING, *UNSEEDED, "MaxNumBoundingBoxes"})


class _Draws(keras.random.SeedGenerator):
    """Seeds that follow from the seed of an image and how many were drawn for it before."""

    def __init__(self) -> None:
        # Without the state of the base class, which is what this one avoids.
        self._seed: Any = None
        self._count = 0

    def begin(self, seed: Any) -> None:
        self._seed, self._count = seed, 0

    def next(self, ordered: bool = True) -> Any:
        count = self._count
        self._count += 1
        if not uses_tensorflow(self._seed):
            words = [int(word) % 2**64 for word in np.asarray(self._seed)]
            return ops.convert_to_tensor(np.random.SeedSequence([*words, count]).generate_state(2))
        import tensorflow as tf

        folded = tf.random.fold_in(tf.cast(self._seed, tf.int64), count)
        return tf.random.stateless_uniform((2,), folded, 0, 2**31 - 1, tf.int32)
