"""Convolution and pooling as PyTorch pads and rounds them.

Layers are named like the modules of the PyTorch network, so that a state dict's key is the layer's name plus `.weight`
and the like.
"""

from typing import NamedTuple

from keras import layers

from keras_dml.typing import Tensor


class Norm(NamedTuple):
    """A batch normalization: the layer's name and its epsilon."""

    name: str
    epsilon: float


def convolution(
    x: Tensor,
    filters: int,
    kernel_size: int,
    strides: int = 1,
    *,
    name: str,
    norm: Norm,
    use_bias: bool = False,
    relu: bool = True,
) -> Tensor:
    """Convolution padded by `kernel_size // 2` on all sides, batch normalization, ReLU.

    Keras's "same" padding puts the padding of a strided convolution on the far side only, which would shift the map.

    Args:
        x: `(batch, h, w, channels)`.
        filters: Channels of the result.
        kernel_size: Side of the kernel.
        strides: Step of the kernel.
        name: Of the convolution.
        norm: The batch normalization after it.
        use_bias: Whether the convolution has a bias.
        relu: Whether a ReLU follows.
    """
    padding = "same"
    if strides > 1 and kernel_size > 1:
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    x = layers.Conv2D(filters, kernel_size, strides=strides, padding=padding, use_bias=use_bias, name=name)(x)
    # PyTorch's default momentum of 0.1 weighs the batch, Keras's the running value.
    x = layers.BatchNormalization(momentum=0.9, epsilon=norm.epsilon, name=norm.name)(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def max_pooling(x: Tensor, size: int, strides: int, *, name: str, padding: int = 0, ceil: bool = False) -> Tensor:
    """Maximum over windows of values that are not negative (what follows a ReLU): there, padding by 0 is padding by
    minus infinity.

    Args:
        x: `(batch, h, w, channels)`, h and w known.
        size: Side of the window.
        strides: Step of the window.
        name: Of the layer.
        padding: On all sides.
        ceil: Whether windows that stick out at the far side count (`ceil_mode` of PyTorch, and Caffe's rounding).
    """
    amounts = []
    for length in x.shape[1:3]:
        far = padding
        if ceil:
            steps = -(-(length + 2 * padding - size) // strides)
            far += max(0, steps * strides + size - length - 2 * padding)
        amounts.append((padding, far))
    if any(amount != (0, 0) for amount in amounts):
        x = layers.ZeroPadding2D(tuple(amounts), name=f"{name}_pad")(x)
    return layers.MaxPooling2D(size, strides, padding="valid", name=name)(x)


def average_pooling(x: Tensor, *, name: str) -> Tensor:
    """Average over 3 x 3 windows with step 1, where the padding counts as zeros (Caffe's averages)."""
    x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return layers.AveragePooling2D(3, 1, padding="valid", name=name)(x)
