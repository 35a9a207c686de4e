"""What an augmentation may implement to be told of the end of an epoch."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class EpochHook(Protocol):
    """An object that `MetricLearner.fit` tells of the end of every training epoch.

    Every `keras_dml.losses.EmbeddingLoss` is one. For an augmentation it is optional: a plain Keras layer works
    without, and a layer that has the method, as `DASAugmentation` does, is told.
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Called before the callbacks of the user.

        Args:
            epoch: Number of the epoch, from 0.
            logs: Means over the epoch by name. What is added is reported and can be monitored.

        Raises:
            ValueError: To end training with an error.
            keras_dml.losses.NothingLeftToLearn: To end it without one; `fit` warns with its text.
        """
