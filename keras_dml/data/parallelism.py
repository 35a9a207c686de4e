"""How datasets of batches run beside training: with parallelism that is fixed, not tuned while they run."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

MOST_BATCHES = 8
"""Batches in memory at once, whatever the number of cores."""


def parallel_batches() -> int:
    """How many batches are made at once where each is made by one thread."""
    return min(MOST_BATCHES, os.cpu_count() or 1)


def prefetched(dataset: "tf.data.Dataset") -> "tf.data.Dataset":
    """`dataset` two batches ahead, without the autotuner of tf.data.

    The autotuner's thread sleeps for up to a minute at a time, and an iterator that goes away can wait for it to wake
    up: `fit` and `predict` then return up to twice as late as they are done.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(2).with_options(options)
