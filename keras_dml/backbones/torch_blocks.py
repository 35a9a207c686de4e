"""Convolution and pooling as PyTorch pads and rounds them.

Layers are named like the modules of the PyTorch network, so that a state dict's key is the layer's name plus `.weight`
and the like.
"""

from typing import Any

from keras import layers


def convolution(
    x: Any,
    filters: int,
    kernel_size: int,
    strides: int = 1,
    *,
    name: str,
    norm_name: str,
    epsilon: float,
    use_bias: bool = False,
    relu: bool = True,
) -> Any:
    """Convolution padded by `kernel_size // 2` on all sides, batch normalisation, ReLU.

    Keras's "same" padding puts the padding of a strided convolution on the far side only, which would shift the map.
    """
    padding = "same"
    if strides > 1 and kernel_size > 1:
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    x = layers.Conv2D(filters, kernel_size, strides=strides, padding=padding, use_bias=use_bias, name=name)(x)
    # PyTorch's default momentum of 0.1 weighs the batch, Keras's the running value.
    x = layers.BatchNormalization(momentum=0.9, epsilon=epsilon, name=norm_name)(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def max_pooling(x: Any, size: int, strides: int, *, name: str, padding: int = 0, ceil: bool = False) -> Any:
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


def average_pooling(x: Any, *, name: str) -> Any:
    """Average over 3 x 3 windows with step 1, where the padding counts as zeros (Caffe's averages)."""
    x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return layers.AveragePooling2D(3, 1, padding="valid", name=name)(x)
