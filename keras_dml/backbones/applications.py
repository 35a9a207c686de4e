"""Networks of `keras.applications`, by name."""

from typing import Any

import keras

from keras_dml.backbones.pixel_values import color_input, pixel_values
from keras_dml.backbones.registry import register_backbone

# What each family's weights were trained on; families that are not listed convert the values themselves.
_VALUES = {
    "DenseNet": "standard",
    "InceptionResNetV2": "symmetric",
    "InceptionV3": "symmetric",
    "MobileNet": "symmetric",
    "MobileNetV2": "symmetric",
    "NASNet": "symmetric",
    "ResNet": "caffe",
    "VGG": "caffe",
    "Xception": "symmetric",
}
_CONVERTING = ("ConvNeXt", "EfficientNet", "MobileNetV3")


def application_names() -> tuple[str, ...]:
    """The networks this Keras has, as it spells them."""
    return tuple(sorted(name for name in dir(keras.applications) if name[0].isupper()))


def find_application(name: str) -> str | None:
    """Keras's spelling of a network's name, whatever its case and underscores; None where Keras has none such."""
    plain = name.replace("_", "").replace("-", "").lower()
    return next((known for known in application_names() if known.lower() == plain), None)


def application(
    name: str, input_shape: tuple[int, int, int], keras_weights: str | None = None, **options: Any
) -> keras.Model:
    """A network of `keras.applications` up to its last feature map, with its conversion of pixel values.

    Args:
        name: As Keras spells it, such as "ConvNeXtTiny".
        input_shape: `(height, width, 3)` of images in [0, 255], RGB.
        keras_weights: "imagenet" downloads Keras's weights.
        options: Further arguments of Keras's function, such as `alpha`.
    """
    images = color_input(input_shape, name)
    if name.startswith(_CONVERTING):
        x = images
    elif name.startswith("ResNet") and name.endswith("V2"):
        x = pixel_values(images, "symmetric")
    else:
        # The longest family name that fits: MobileNetV2 is not a MobileNet.
        x = pixel_values(images, _VALUES[max(filter(name.startswith, _VALUES), key=len)])
    network = getattr(keras.applications, name)
    base = network(include_top=False, weights=keras_weights, input_tensor=x, **options)
    return keras.Model(images, base.output, name=name.lower())


@register_backbone("mobilenet_v2")
def mobilenet_v2(
    input_shape: tuple[int, int, int], alpha: float = 1.0, keras_weights: str | None = None
) -> keras.Model:
    """MobileNetV2 (Sandler et al., CVPR 2018, arXiv 1801.04381) up to its last feature map; values in [-1, 1].

    Args:
        input_shape: `(height, width, 3)` of images in [0, 255], RGB.
        alpha: Multiplies the widths. Keras has ImageNet weights for .35, .5, .75, 1, 1.3 and 1.4.
        keras_weights: "imagenet" downloads Keras's weights.

    Returns:
        A model from images to `(batch, height / 32, width / 32, 1280)` (wider where alpha exceeds 1).
    """
    if not alpha > 0:
        raise ValueError(f"`alpha` must be positive. Received: alpha={alpha}")
    return application("MobileNetV2", input_shape, keras_weights, alpha=alpha)
