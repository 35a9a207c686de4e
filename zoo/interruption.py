"""Ctrl-C during training."""

import signal
import threading
from types import FrameType
from typing import Any

import keras


class Interruption(keras.callbacks.Callback):
    """Ends a training for certain after Ctrl-C: a context around it, and one of the callbacks of its `fit`.

    Python raises KeyboardInterrupt wherever the main thread happens to be, and drops it where that is a `__del__` or
    the callback of a weak reference, as both run all the time within TensorFlow. So the signal is noted too, and
    KeyboardInterrupt is raised once more: before the next batch, at the end of the epoch, or at the end of the context.

    Python's own handler is replaced, in the main thread; handlers of others, and an ignored signal, stay.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noted = False
        self._replaced = False

    def __enter__(self) -> "Interruption":
        main = threading.current_thread() is threading.main_thread()
        self._replaced = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._replaced:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._replaced:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if error is None:
            self._raise_again()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = True
        signal.default_int_handler(number, frame)

    def _raise_again(self) -> None:
        if self.noted:
            raise KeyboardInterrupt

    # Not at the end of a batch: callbacks there make Keras fetch the logs from the device after every batch.
    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self._raise_again()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._raise_again()
