"""ResNet-50, in the form that its PyTorch weights fit or the form that Keras's fit."""

import os
from collections.abc import Mapping

import keras
from keras import layers

from keras_dml.backbones.pixel_values import color_input, pixel_values
from keras_dml.backbones.registry import Weights, register_backbone
from keras_dml.backbones.torch_blocks import Norm, convolution, max_pooling
from keras_dml.backbones.weights import TORCH_SUFFIXES, keras_resnet50_file
from keras_dml.typing import Tensor

FORMS = ("torchvision", "keras")
TORCH_ORIGIN = "https://download.pytorch.org/models/resnet50-0676ba61.pth"


def _form_of(weights: Weights) -> Mapping[str, str]:
    """The form that weights fit."""
    if weights is None or os.fspath(weights).endswith(TORCH_SUFFIXES):
        return {"form": "torchvision"}
    return {"form": "keras" if weights == "imagenet" or keras_resnet50_file(weights) else "torchvision"}


@register_backbone("resnet50", torch_origin=TORCH_ORIGIN, options_for=_form_of)
def resnet50(
    input_shape: tuple[int, int, int], form: str = "torchvision", keras_weights: str | None = None
) -> keras.Model:
    """ResNet-50 (He et al., CVPR 2016, arXiv 1512.03385) up to its last feature map.

    The two forms differ, and weights fit one only:

    - "torchvision": a stage's stride in the 3 x 3 convolution of its first block ("v1.5"), no bias beside batch
      normalization, epsilon 1e-5; RGB with ImageNet mean and standard deviation. What DAS's published results use.
    - "keras": `keras.applications.ResNet50`: the stride in the first 1 x 1 convolution, biases, epsilon 1.001e-5;
      BGR minus the mean.

    Args:
        input_shape: `(height, width, 3)` of images in [0, 255], RGB.
        form: "torchvision" or "keras".
        keras_weights: "imagenet" downloads Keras's weights; for the form "keras" only.

    Returns:
        A model from images to `(batch, height / 32, width / 32, 2048)`.
    """
    if form not in FORMS:
        raise ValueError(f"`form` of resnet50 must be one of {', '.join(FORMS)}. Received: form={form!r}")
    if form == "torchvision" and keras_weights is not None:
        raise ValueError(
            f"Keras has no ImageNet weights for resnet50 of this form. Download {TORCH_ORIGIN} and pass weights=FILE; "
            f"it is read without PyTorch. Received: weights={keras_weights!r}"
        )
    images = color_input(input_shape, "resnet50")
    if form == "keras":
        x = pixel_values(images, "caffe")
        base = keras.applications.ResNet50(include_top=False, weights=keras_weights, input_tensor=x)
        return keras.Model(images, base.output, name="resnet50")
    x = pixel_values(images, "standard")
    x = convolution(x, 64, 7, 2, name="conv1", norm=Norm("bn1", 1e-5))
    x = max_pooling(x, 3, 2, padding=1, name="maxpool")
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(blocks):
            strides = 2 if stage > 1 and not block else 1
            x = _bottleneck(x, width, strides, name=f"layer{stage}.{block}", project=not block)
    return keras.Model(images, x, name="resnet50")


def _bottleneck(x: Tensor, width: int, strides: int, *, name: str, project: bool) -> Tensor:
    def step(y: Tensor, filters: int, size: int, step_strides: int, index: int, relu: bool) -> Tensor:
        norm = Norm(f"{name}.bn{index}", 1e-5)
        return convolution(y, filters, size, step_strides, name=f"{name}.conv{index}", norm=norm, relu=relu)

    shortcut = x
    if project:
        norm = Norm(f"{name}.downsample.1", 1e-5)
        shortcut = convolution(x, 4 * width, 1, strides, name=f"{name}.downsample.0", norm=norm, relu=False)
    y = step(x, width, 1, 1, 1, True)
    y = step(y, width, 3, strides, 2, True)
    y = step(y, 4 * width, 1, 1, 3, False)
    y = layers.Add(name=f"{name}.add")([y, shortcut])
    return layers.ReLU(name=f"{name}.relu")(y)
