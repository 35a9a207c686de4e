"""Backbones of keras-hub, which is an optional dependency."""

from typing import Any

import keras
import numpy as np

from keras_dml.backbones.pixel_values import color_input

PREFIX = "keras_hub:"


def _keras_hub() -> Any:
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            "Backbones of keras-hub need that package, which is not installed (or does not import). "
            'Install it with `pip install "keras-dml[models]"`.'
        ) from error
    return keras_hub


def hub_backbone(preset: str, input_shape: tuple[int, int, int], load_weights: bool, **options: Any) -> keras.Model:
    """A backbone of keras-hub with the conversion of pixel values that its preset names.

    Of a preset for images and texts, such as SigLIP's, it is the vision encoder.

    Args:
        preset: What `keras_hub.models.Backbone.from_preset` takes: a preset's name such as "dinov2_base", a Kaggle or
            Hugging Face handle, or a local folder.
        input_shape: `(height, width, 3)` of images in [0, 255], RGB. DINOv2 and DINOv3 take sides that their
            patch size divides, with `image_shape` among the options; SigLIP those of the preset.
        load_weights: Whether to load the preset's weights (downloaded by keras-hub) or start afresh.
        options: Further arguments of `from_preset`, such as `image_shape`.

    Raises:
        ImportError: If keras-hub is missing.
        ValueError: If the preset is unknown, cannot be downloaded, or takes images of another shape.
    """
    keras_hub = _keras_hub()
    try:
        backbone = keras_hub.models.Backbone.from_preset(preset, load_weights=load_weights, **options)
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except Exception as error:
        raise ValueError(
            f"keras-hub could not load the preset {preset!r}: {error}. A preset's name needs a download, of its "
            "configuration even for fresh weights. Without network, download the preset elsewhere and name its folder: "
            f'"{PREFIX}FOLDER".'
        ) from error
    color_input(input_shape, preset)
    backbone = image_tower(backbone)
    if len(backbone.inputs) != 1:
        names = ", ".join(tensor.name for tensor in backbone.inputs)
        raise ValueError(
            f"A backbone takes images alone. Received: the preset {preset!r} with the inputs {names}. Of models for "
            "images and texts, SigLIP's are taken, with their image tower"
        )
    expected = tuple(getattr(backbone, "image_shape", None) or ())
    if expected and None not in expected and expected != tuple(input_shape):
        raise ValueError(
            f"The preset {preset!r} takes images of shape {expected}. Received: input_shape={tuple(input_shape)}. Set "
            f"the input size to {expected[0]}, or for networks that take other sizes (DINOv2, DINOv3) the option "
            f"image_shape={tuple(input_shape)} (of a recipe: backbone_options)"
        )
    return with_pixel_values(backbone, input_shape, converter.scale, converter.offset)


def with_pixel_values(
    backbone: keras.Model, input_shape: tuple[int, int, int], scale: Any = None, offset: Any = None
) -> keras.Model:
    """A model from images in [0, 255] around a backbone that expects `images * scale + offset`."""
    images = keras.Input(input_shape, name="images")
    x = images
    if scale is not None or offset is not None:
        scale = 1.0 if scale is None else np.asarray(scale, "float32").tolist()
        offset = 0.0 if offset is None else np.asarray(offset, "float32").tolist()
        x = keras.layers.Rescaling(scale, offset=offset, dtype="float32", name="pixel_values")(x)
    # Most models of keras-hub take a dict, with a key of their own.
    given = getattr(backbone, "input", None)
    features = backbone(dict.fromkeys(given, x) if isinstance(given, dict) else x)
    return keras.Model(images, features, name=backbone.name)


def is_hub_backbone(model: keras.Model) -> bool:
    """Whether a model is a backbone of keras-hub, told without importing that package."""
    return hasattr(model, "default_lora_layer_names")


def image_tower(model: keras.Model) -> keras.Model:
    """Of a keras-hub model for images and texts whose vision encoder ends in features (SigLIP) that encoder.

    Others stay as they are: CLIP's ends in tokens that its model goes on with.
    """
    tower = getattr(model, "vision_encoder", None)
    return tower if tower is not None and len(tower.output.shape) == 2 else model


def prefix_tokens(model: keras.Model) -> int:
    """How many of a keras-hub transformer's first output tokens are class and register tokens, not patches."""
    for candidate in (model, *(layer for layer in model.layers if isinstance(layer, keras.Model))):
        if hasattr(candidate, "num_register_tokens"):
            return 1 + candidate.num_register_tokens
        if hasattr(candidate, "use_class_token"):
            return int(candidate.use_class_token)
    return 0
