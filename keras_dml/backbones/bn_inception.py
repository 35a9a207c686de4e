"""BN-Inception, the ported Caffe network that metric learning papers call Inception-BN or IBN."""

from typing import NamedTuple

import keras
from keras import layers

from keras_dml.backbones.pixel_values import color_input, pixel_values
from keras_dml.backbones.registry import register_backbone
from keras_dml.backbones.torch_blocks import Norm, average_pooling, convolution, max_pooling
from keras_dml.typing import Tensor


class _Block(NamedTuple):
    """Widths of a block's convolutions; `one` and `projection` are 0 in the blocks that halve the map."""

    one: int
    reduce: int
    three: int
    double_reduce: int
    double: int
    projection: int
    pool: str = "average"


BLOCKS = {
    "inception_3a": _Block(64, 64, 64, 64, 96, 32),
    "inception_3b": _Block(64, 64, 96, 64, 96, 64),
    "inception_3c": _Block(0, 128, 160, 64, 96, 0),
    "inception_4a": _Block(224, 64, 96, 96, 128, 128),
    "inception_4b": _Block(192, 96, 128, 96, 128, 128),
    "inception_4c": _Block(160, 128, 160, 128, 160, 128),
    "inception_4d": _Block(96, 128, 192, 160, 192, 128),
    "inception_4e": _Block(0, 128, 192, 192, 256, 0),
    "inception_5a": _Block(352, 192, 320, 160, 224, 128),
    "inception_5b": _Block(352, 192, 320, 192, 224, 128, "max"),
}


@register_backbone(
    "bn_inception", torch_origin="http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"
)
def bn_inception(input_shape: tuple[int, int, int]) -> keras.Model:
    """BN-Inception (Ioffe and Szegedy, ICML 2015, arXiv 1502.03167) up to its last feature map.

    The Caffe model ported to PyTorch that the `pretrainedmodels` package serves: biases beside batch normalization,
    ceiling rounding of poolings, BGR images minus 104, 117, 128.

    Args:
        input_shape: `(height, width, 3)` of images in [0, 255], RGB; the weights were trained at 224.

    Returns:
        A model from images to `(batch, height / 32, width / 32, 1024)`.
    """
    images = color_input(input_shape, "bn_inception")
    x = pixel_values(images, "bn_inception")
    x = _unit(x, 64, 7, "conv1_7x7_s2", strides=2)
    x = max_pooling(x, 3, 2, ceil=True, name="pool1_3x3_s2")
    x = _unit(x, 64, 1, "conv2_3x3_reduce")
    x = _unit(x, 192, 3, "conv2_3x3")
    x = max_pooling(x, 3, 2, ceil=True, name="pool2_3x3_s2")
    for name, block in BLOCKS.items():
        x = _inception(x, block, name)
    return keras.Model(images, x, name="bn_inception")


def _unit(x: Tensor, filters: int, size: int, name: str, strides: int = 1) -> Tensor:
    return convolution(x, filters, size, strides, name=name, norm=Norm(f"{name}_bn", 1e-5), use_bias=True)


def _inception(x: Tensor, block: _Block, name: str) -> Tensor:
    strides = 1 if block.one else 2
    if strides == 2 and any(length % 2 for length in x.shape[1:3]):
        # Its pooling rounds up, its convolutions down.
        size = tuple(x.shape[1:3])
        raise ValueError(f"bn_inception takes sides that are multiples of 32. {name} would halve a map of {size}")
    branches = [_unit(x, block.one, 1, f"{name}_1x1")] if block.one else []
    three = _unit(x, block.reduce, 1, f"{name}_3x3_reduce")
    branches.append(_unit(three, block.three, 3, f"{name}_3x3", strides))
    double = _unit(x, block.double_reduce, 1, f"{name}_double_3x3_reduce")
    # Both 3 x 3 convolutions of this branch have the same width in every block.
    double = _unit(double, block.double, 3, f"{name}_double_3x3_1")
    branches.append(_unit(double, block.double, 3, f"{name}_double_3x3_2", strides))
    if not block.one:
        branches.append(max_pooling(x, 3, 2, ceil=True, name=f"{name}_pool"))
    else:
        pool = f"{name}_pool"
        pooled = max_pooling(x, 3, 1, padding=1, name=pool) if block.pool == "max" else average_pooling(x, name=pool)
        branches.append(_unit(pooled, block.projection, 1, f"{name}_pool_proj"))
    return layers.Concatenate(name=f"{name}_output")(branches)
