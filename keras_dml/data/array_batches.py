"""Batches of NumPy arrays, made by threads beside training: what every Keras backend takes."""

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import keras

from keras_dml.utils.cores import available_cores


class ArrayBatches(keras.utils.PyDataset):
    """Batches that are functions of their number; the next ones are made while one is used.

    `fit`, `evaluate` and `predict` take it, and a loop gives the batches in order. Keras shuffles a `PyDataset` that
    has an end unless told otherwise: pass `shuffle=False` to `fit` for the order of a loop.

    Args:
        make: From a number, counted from 0, to a batch: an array, or a tuple of arrays.
        count: Number of batches; None for no end, which needs `steps_per_epoch` in `fit`. The batches then go on
            from epoch to epoch.
        ahead: How many batches are made at once.
    """

    def __init__(self, make: Callable[[int], Any], count: int | None, ahead: int = 2) -> None:
        # No workers of Keras: they would begin again with each epoch.
        super().__init__(workers=1, use_multiprocessing=False)
        self._make = make
        self._count = count
        self._ahead = ahead
        self._lock = threading.Lock()
        self._futures: dict[int, Future] = {}
        # Its threads end when it is collected.
        self._threads = ThreadPoolExecutor(ahead, "keras_dml-batches")

    @property
    def num_batches(self) -> int | None:
        """Number of batches, None for no end."""
        return self._count

    def __len__(self) -> int:
        if self._count is None:
            raise TypeError("These batches have no end, and so no length")
        return self._count

    def __bool__(self) -> bool:
        return self._count != 0

    def __getitem__(self, index: int) -> Any:
        """Batch `index`.

        Raises:
            IndexError: There is no such batch.
            DataError: An image in it cannot be read.
        """
        end = index + self._ahead if self._count is None else min(index + self._ahead, self._count)
        if not 0 <= index < end:
            raise IndexError(f"Batches are numbered from 0 to {self._count}. Received: {index}")
        with self._lock:
            for stale in [number for number in self._futures if not index <= number < end]:
                self._futures.pop(stale).cancel()
            for number in range(index, end):
                if number not in self._futures:
                    self._futures[number] = self._threads.submit(self._make, number)
            future = self._futures.pop(index)
        return future.result()


@functools.cache
def image_threads() -> ThreadPoolExecutor:
    """The threads that decode and augment single images; Pillow and NumPy let the others run meanwhile."""
    return ThreadPoolExecutor(available_cores(), "keras_dml-images")
