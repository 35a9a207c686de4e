"""An encoder: a backbone with the head that every deep metric learning paper puts on it."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import layers

from keras_dml.backbones.small_conv import small_conv
from keras_dml.utils.suggestions import unknown_name

# Each builder takes the input shape and its own options and returns a model from images in [0, 255] to a feature map.
BACKBONES: dict[str, Callable[..., keras.Model]] = {
    "small_conv": small_conv,
}
POOLINGS = ("avg", "max", "avg+max")


def build(
    name: str | keras.Model,
    embedding_dim: int | None = 512,
    pooling: str = "avg",
    input_shape: tuple[int, int, int] = (224, 224, 3),
    normalize: bool = True,
    options: Mapping[str, Any] | None = None,
) -> keras.Model:
    """Builds an encoder: backbone, global pooling, linear layer, L2 normalisation.

    The head computes in float32 under every dtype policy.

    Args:
        name: A key of `BACKBONES`, or a model from images in [0, 255] to a feature map `(batch, h, w, channels)`.
        embedding_dim: Width d of the embedding; None leaves out the linear layer.
        pooling: "avg", "max", or "avg+max" (their sum, "double" pooling of DAS Table 1).
        input_shape: `(height, width, channels)` of the images, where `name` is a string.
        normalize: Whether embeddings are scaled to unit length.
        options: Further arguments of the backbone's builder.

    Returns:
        A model from `(batch, height, width, channels)` float32 images in [0, 255] to `(batch, d)` float32 embeddings.
    """
    if isinstance(name, keras.Model):
        backbone = name
    elif name in BACKBONES:
        backbone = BACKBONES[name](input_shape, **(options or {}))
    else:
        raise ValueError(unknown_name("backbone", name, BACKBONES))
    if pooling not in POOLINGS:
        raise ValueError(unknown_name("pooling", pooling, POOLINGS))
    if embedding_dim is not None and embedding_dim < 1:
        raise ValueError(f"`embedding_dim` must be positive. Received: embedding_dim={embedding_dim}")
    features = backbone.output
    average = layers.GlobalAveragePooling2D(dtype="float32", name="average_pooling")
    maximum = layers.GlobalMaxPooling2D(dtype="float32", name="max_pooling")
    if pooling == "avg":
        x = average(features)
    elif pooling == "max":
        x = maximum(features)
    else:
        x = layers.Add(dtype="float32", name="pooling")([average(features), maximum(features)])
    if embedding_dim is not None:
        x = layers.Dense(embedding_dim, dtype="float32", name="embedding")(x)
    if normalize:
        x = layers.UnitNormalization(dtype="float32", name="normalization")(x)
    return keras.Model(backbone.input, x, name=f"{backbone.name}_encoder")
