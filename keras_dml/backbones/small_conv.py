"""A small convolutional network for small images, trained from scratch."""

from collections.abc import Sequence

import keras
from keras import layers

from keras_dml.backbones.registry import register_backbone


@register_backbone("small_conv")
def small_conv(input_shape: tuple[int, int, int], widths: Sequence[int] = (32, 64, 128)) -> keras.Model:
    """Convolution 3 x 3, batch normalization, ReLU, twice per stage; stages after the first halve the image.

    Args:
        input_shape: `(height, width, channels)` of images in [0, 255].
        widths: Channels of each stage.

    Returns:
        A model from images to a feature map `(batch, height', width', widths[-1])`.
    """
    inputs = keras.Input(input_shape, name="images")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="rescaling")(inputs)
    for stage, width in enumerate(widths):
        for step in range(2):
            strides = 2 if stage and not step else 1
            name = f"stage{stage}_{step}"
            x = layers.Conv2D(width, 3, strides=strides, padding="same", use_bias=False, name=f"{name}_conv")(x)
            x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
            x = layers.ReLU(name=f"{name}_relu")(x)
    return keras.Model(inputs, x, name="small_conv")
