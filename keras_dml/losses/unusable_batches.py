"""The policy for batches that a loss can learn nothing from, or would go wrong on.

There are two kinds: batches without the pairs that a loss compares, and labels that a loss with a weight for each class
has no weight for. Inside a graph, looking at labels would make each step wait for the device. So each is met three
times:

- Before training, or eagerly: `check_pairs` and `check_class_range`, through `EmbeddingLoss.check_labels`, raise for
  the labels of one batch. `MetricLearner` does not call it, as a single unlucky batch is no mistake.
- In a step nothing raises. A batch without a usable pair gives loss 0 and gradient 0. A label outside of the classes
  makes the loss NaN, which cannot be overlooked, with gradient 0, so that the weights stay as they are (`nan_outside`;
  eagerly, it raises).
- At the end of an epoch: `judge_epoch`, through `EmbeddingLoss.on_epoch_end`, which `MetricLearner` calls, raises if
  the epoch had no usable pair in any batch or its loss was NaN, and ends training if every pair has met its margin.

A loss around another hands both methods on, so a wrapped loss is judged as it would be alone, by the pairs it saw: with
a cross-batch memory, those with the memory.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from keras import ops

from keras_dml.backend.state import concrete
from keras_dml.losses.loss_output import PairStatus
from keras_dml.typing import Tensor

if TYPE_CHECKING:
    from keras_dml.losses.embedding_batch import EmbeddingBatch
    from keras_dml.losses.embedding_loss import EmbeddingLoss

STEPS = "steps"
STEPS_WITH = PairStatus(
    "steps_with_positives", "steps_with_negatives", "steps_with_usable_pairs", "steps_with_active_pairs"
)
"""Names under which `on_epoch_end` finds the sums of `PairStatus` over the steps of the epoch, beside `STEPS`."""


class NothingLeftToLearn(Exception):
    """Raised by `on_epoch_end` to end training without an error: `MetricLearner.fit` warns with its text and stops."""


def check_pairs(labels: Tensor, owner: str, needs_negatives: bool = True) -> None:
    """Raises ValueError if concrete labels `(n,)` make no positive pair, or no negative one; traced ones pass."""
    values = concrete(labels)
    if values is None or values.size == 0:
        return
    classes = len(np.unique(values))
    if classes == values.size:
        raise ValueError(
            f"{owner} needs batches with at least two samples of a class, or there are no positive "
            f"pairs. Received: {values.size} samples of {classes} classes. Draw several samples of each class, "
            "for example with keras_dml.data.PKBatches."
        )
    if needs_negatives and classes == 1:
        raise ValueError(
            f"{owner} needs batches with at least two classes, or there are no negative pairs. "
            f"Received: {values.size} samples of 1 class. Shuffle, or draw several classes into each batch."
        )


def check_class_range(labels: Tensor, num_classes: int, owner: str) -> None:
    """Raises ValueError if concrete labels lie outside `[0, num_classes)`; traced ones pass."""
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


def nan_outside(loss: Tensor, labels: Tensor, num_classes: int, owner: str) -> Tensor:
    """The loss, or NaN with gradient 0 if any label lies outside `[0, num_classes)`.

    Raises:
        ValueError: in eager mode.
    """
    check_class_range(labels, num_classes, owner)
    outside = ops.any(ops.logical_or(labels < 0, labels >= num_classes))
    return ops.where(outside, float("nan"), loss)


def pair_status(
    batch: "EmbeddingBatch", loss: Tensor, key_counts: Tensor | None, needs_negatives: bool = True
) -> PairStatus:
    """What the batch offered to a loss of pairs, and whether any of it was active.

    A pair is active if the loss counted its key; and as losses over sampled tuples count those that have met their
    margin too, only where the loss is not exactly 0.
    """
    positives, negatives = ops.any(batch.positives), ops.any(batch.negatives)
    usable = ops.any(batch.positives, axis=1)
    if needs_negatives:
        usable = ops.logical_and(usable, ops.any(batch.negatives, axis=1))
    active = ops.not_equal(loss, 0.0)
    if key_counts is not None:
        active = ops.logical_and(active, ops.any(key_counts > 0))
    return PairStatus(*(ops.cast(flag, "float32") for flag in (positives, negatives, ops.any(usable), active)))


def judge_epoch(loss: "EmbeddingLoss", epoch: int, logs: Mapping[str, float]) -> None:
    """Judges an epoch by its logs.

    Args:
        loss: The loss that was trained with, without what is wrapped around it.
        epoch: Number of the epoch, from 0.
        logs: Means over the epoch, `loss` among them, and where pairs were counted `STEPS` and `STEPS_WITH`.

    Raises:
        ValueError: No batch had the pairs the loss needs, or the loss of a loss with a weight for each class was NaN.
        NothingLeftToLearn: There were pairs, and in no step was any of them active.
    """
    if loss.num_classes is not None and math.isnan(logs.get("loss", 0.0)):
        raise ValueError(
            f"The loss {loss.name} was NaN in epoch {epoch + 1}. It is where a label lies outside "
            f"[0, num_classes={loss.num_classes}): number the training classes from 0 and set `num_classes` to how "
            "many there are. If labels are right, training has diverged: lower the learning rate"
        )
    if not loss.uses_keys or not logs.get(STEPS):
        return
    positives, negatives, usable, active = (logs[name] for name in STEPS_WITH)
    if not usable:
        if not positives:
            found = "no positive pair"
        elif not negatives:
            found = "no negative pair"
        else:
            found = "positive pairs without negatives and negatives without positives"
        wanted = "two images of a class" + (" and two classes" if loss.needs_negatives else "")
        raise ValueError(
            f"The batches of epoch {epoch + 1} held {found}, so {loss.name} learned nothing: a batch needs {wanted}. "
            "Draw batches with keras_dml.data.PKBatches(..., images_per_class=2) or more; among few classes with "
            "replacement=False, as a batch may otherwise draw one class only"
        )
    if not active:
        raise NothingLeftToLearn(
            f"Training ends after epoch {epoch + 1}: in all of its batches every pair of {loss.name} had met its "
            "margin already, so there is nothing left to learn. To go on, use a larger margin, a miner of harder "
            "tuples or more classes per batch."
        )
