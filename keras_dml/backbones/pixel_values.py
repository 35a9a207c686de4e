"""How a backbone wants the values of its images: the first layers of each."""

import keras
import numpy as np
from keras import layers

from keras_dml.typing import Tensor

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
MODES = ("none", "symmetric", "standard", "caffe", "bn_inception")


def pixel_values(images: Tensor, mode: str) -> Tensor:
    """Converts images from RGB in [0, 255] to what the weights were trained on.

    Made of Keras's own layers, in float32 under every dtype policy, so that a saved encoder needs Keras alone.

    Args:
        images: `(batch, height, width, channels)` in [0, 255], RGB.
        mode: "none" (as they are), "symmetric" ([-1, 1]), "standard" (RGB, ImageNet mean and standard deviation),
            "caffe" (BGR minus ImageNet mean) or "bn_inception" (BGR minus 104, 117, 128).

    Returns:
        `(batch, height, width, channels)`.
    """
    if mode == "none":
        return images
    if mode == "symmetric":
        return layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="pixel_values")(images)
    if mode == "standard":
        scale = [1 / (255 * deviation) for deviation in DEVIATION]
        offset = [-mean / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)]
        return layers.Rescaling(scale, offset=offset, dtype="float32", name="pixel_values")(images)
    # Means in RGB order, since the channels are turned round last.
    means = {"caffe": [-123.68, -116.779, -103.939], "bn_inception": [-128.0, -117.0, -104.0]}
    if mode not in means:
        raise ValueError(f"`mode` must be one of {', '.join(MODES)}. Received: mode={mode!r}")
    centered = layers.Rescaling(1.0, offset=means[mode], dtype="float32", name="pixel_values")(images)
    return keras.ops.flip(centered, axis=-1)


def expects_bytes(encoder: keras.Model) -> bool:
    """Whether an encoder turns pixel values in [0, 255] into small numbers itself, as those of `build` do.

    Told by its layers, which a saved model keeps: one that rescales 255 to less than 10, or subtracts a mean of more
    than 10.
    """
    for layer in getattr(encoder, "layers", ()):
        if isinstance(layer, keras.Model) and expects_bytes(layer):
            return True
        shrinks = isinstance(layer, layers.Rescaling) and 255 * np.max(np.abs(layer.scale)) < 10
        means = {layers.Rescaling: "offset", layers.Normalization: "input_mean"}.get(type(layer))
        mean = None if means is None else getattr(layer, means)
        if shrinks or (mean is not None and np.max(np.abs(mean)) > 10):
            return True
    return False


def color_input(input_shape: tuple[int, int, int], network: str) -> Tensor:
    """The input of a network whose published weights are for color images.

    Raises:
        ValueError: If `input_shape` has other than 3 channels, or a side is not known.
    """
    if len(input_shape) != 3 or input_shape[-1] != 3 or None in input_shape:
        raise ValueError(
            f"{network} takes color images, `input_shape=(height, width, 3)` with known sides. "
            f"Received: input_shape={tuple(input_shape)}. Repeat a gray channel three times, or use small_conv."
        )
    return keras.Input(input_shape, name="images")
