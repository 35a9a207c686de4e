"""GoogLeNet with batch normalization, as torchvision defines and trained it."""

import keras
from keras import layers

from keras_dml.backbones.pixel_values import color_input, pixel_values
from keras_dml.backbones.registry import register_backbone
from keras_dml.backbones.torch_blocks import Norm, convolution, max_pooling
from keras_dml.typing import Tensor

# Per block: 1 x 1, 3 x 3 reduction, 3 x 3, "5 x 5" reduction, "5 x 5", projection of the pooled branch.
BLOCKS: dict[str, tuple[int, int, int, int, int, int]] = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}


@register_backbone("googlenet", torch_origin="https://download.pytorch.org/models/googlenet-1378be20.pth")
def googlenet(input_shape: tuple[int, int, int]) -> keras.Model:
    """GoogLeNet (Szegedy et al., CVPR 2015, arXiv 1409.4842) in torchvision's variant, up to its last feature map.

    It is not the Caffe network that PDDM's results were obtained with: torchvision's has batch normalization instead of
    local response normalization and biases, and 3 x 3 instead of 5 x 5 convolutions. Values in [-1, 1].

    Args:
        input_shape: `(height, width, 3)` of images in [0, 255], RGB.

    Returns:
        A model from images to `(batch, height / 32, width / 32, 1024)`.
    """
    images = color_input(input_shape, "googlenet")
    x = pixel_values(images, "symmetric")
    x = _unit(x, 64, 7, "conv1", strides=2)
    x = max_pooling(x, 3, 2, ceil=True, name="maxpool1")
    x = _unit(x, 64, 1, "conv2")
    x = _unit(x, 192, 3, "conv3")
    x = max_pooling(x, 3, 2, ceil=True, name="maxpool2")
    for name, widths in BLOCKS.items():
        if name == "inception4a":
            x = max_pooling(x, 3, 2, ceil=True, name="maxpool3")
        if name == "inception5a":
            x = max_pooling(x, 2, 2, ceil=True, name="maxpool4")
        x = _inception(x, widths, name)
    return keras.Model(images, x, name="googlenet")


def _unit(x: Tensor, filters: int, size: int, name: str, strides: int = 1) -> Tensor:
    return convolution(x, filters, size, strides, name=f"{name}.conv", norm=Norm(f"{name}.bn", 1e-3))


def _inception(x: Tensor, widths: tuple[int, int, int, int, int, int], name: str) -> Tensor:
    one, reduce_three, three, reduce_five, five, projection = widths
    branches = [
        _unit(x, one, 1, f"{name}.branch1"),
        _unit(_unit(x, reduce_three, 1, f"{name}.branch2.0"), three, 3, f"{name}.branch2.1"),
        _unit(_unit(x, reduce_five, 1, f"{name}.branch3.0"), five, 3, f"{name}.branch3.1"),
        _unit(max_pooling(x, 3, 1, padding=1, name=f"{name}.branch4.0"), projection, 1, f"{name}.branch4.1"),
    ]
    return layers.Concatenate(name=name)(branches)
