"""How datasets of batches run beside training: with parallelism that is fixed, not tuned while they run."""

from typing import TYPE_CHECKING

from keras_dml.utils.cores import available_cores

if TYPE_CHECKING:
    import tensorflow as tf

MOST_BATCHES = 8
"""Batches made at once at most, whatever the number of cores: each takes memory."""


def parallel_batches() -> int:
    """How many batches are made at once where each is made by one thread."""
    return min(MOST_BATCHES, available_cores())


def prefetched(dataset: "tf.data.Dataset") -> "tf.data.Dataset":
    """`dataset` two batches ahead, without the autotuner of tf.data.

    The autotuner's thread sleeps for up to a minute at a time, and an iterator that goes away can wait for it to wake
    up: `fit` and `predict` then take up to twice as long as they need.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(2).with_options(options)
