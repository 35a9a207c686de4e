"""What losses with a weight for each class do about labels that have none."""

from typing import Any

import numpy as np
from keras import ops

from keras_dml.backend.state import concrete


def check_class_range(labels: Any, num_classes: int, owner: str) -> None:
    """Raise ValueError if concrete labels lie outside `[0, num_classes)`; traced ones pass."""
    values = concrete(labels)
    if values is None or values.size == 0:
        return
    low, high = int(np.min(values)), int(np.max(values))
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{owner} has weights for {num_classes} classes, so labels must lie between 0 and {num_classes - 1}. "
            f"Received: labels from {low} to {high}. Set `num_classes` to the number of training classes, and number "
            "those from 0."
        )


def nan_outside(loss: Any, labels: Any, num_classes: int, owner: str) -> Any:
    """The loss, or NaN with gradient 0 if any label lies outside `[0, num_classes)`.

    In a graph, looking at labels would make each step wait for the device. A NaN cannot be overlooked, and with no
    gradient the weights stay as they are.

    Raises:
        ValueError: in eager mode.
    """
    check_class_range(labels, num_classes, owner)
    outside = ops.any(ops.logical_or(labels < 0, labels >= num_classes))
    return ops.where(outside, float("nan"), loss)
