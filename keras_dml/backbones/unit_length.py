"""Whether an encoder's embeddings have unit length."""

from typing import Any

import keras
from keras import layers

_LENGTHS_VARY = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
)
_HANDED_ON = (layers.Identity, layers.Dropout)


def has_unit_length(encoder: keras.Model) -> bool | None:
    """Whether an encoder scales its embeddings to unit length, told by its last layer; None where that does not tell.

    Args:
        encoder: A model to embeddings `(n, d)`, built or not, or one around it that has it as `encoder`, such as
            `MetricLearner`.
    """
    inner = getattr(encoder, "encoder", None)
    operation = _last(inner if isinstance(inner, keras.Model) else encoder)
    if isinstance(operation, layers.UnitNormalization):
        return True if operation.axis in (-1, 1, [-1], [1], (-1,), (1,)) else None
    if isinstance(operation, layers.Dense):
        # Any other activation may be a normalization.
        plain = (keras.activations.linear, keras.activations.relu)
        return False if operation.activation in plain else None
    return False if isinstance(operation, _LENGTHS_VARY) else None


def _last(model: Any) -> Any:
    """The operation that makes the output of a functional or sequential model; None for any other."""
    # Keras lists them in the order of the computation.
    listed = model.layers if isinstance(model, keras.Sequential) else getattr(model, "operations", ())
    found = [operation for operation in listed if not isinstance(operation, _HANDED_ON)]
    if not found:
        return None
    return _last(found[-1]) if isinstance(found[-1], keras.Model) else found[-1]
