"""One line that says what is being trained and how long it will take."""

import shutil
import sys
import time

EVERY, EVERY_IN_A_LOG = 1.0, 60.0
"""Seconds between lines within an epoch, on a terminal and in a file."""


class Progress:
    """Progress of an experiment on the terminal; in a log file, a line now and then.

    Args:
        epochs: Epochs that are still to be trained, over all runs.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.done = 0
        self._started = time.monotonic()
        self._shown = self._started
        self._next_log = 0.0
        self._numbers = ""
        self._live = sys.stdout.isatty()

    def update(self, run: str, run_epochs: int, epoch: int, logs: dict[str, float]) -> None:
        """Shows the end of an epoch, the `epoch`-th of the run."""
        self.done += 1
        spent = time.monotonic() - self._started
        last = epoch == run_epochs
        shown = {"loss": logs["loss"], **{k: v for k, v in logs.items() if k in ("val_recall@1", "val_map@r")}}
        numbers = "".join(f"  {name.removeprefix('val_')} {value:.4f}" for name, value in shown.items())
        if self._live or last or spent >= self._next_log:
            self._next_log = spent + 10
            self._show(f"{run:<18} epoch {epoch}/{run_epochs}", self.done, numbers, last)
        self._numbers = "" if last else numbers

    def step(self, run: str, run_epochs: int, epochs: int, step: int, steps: int) -> None:
        """Shows how far an epoch is, now and then: `step` of its `steps`, after `epochs` epochs of the run."""
        if time.monotonic() - self._shown >= (EVERY if self._live else EVERY_IN_A_LOG):
            where = f"{run:<18} epoch {epochs + 1}/{run_epochs}, step {step}/{steps}"
            self._show(where, self.done + step / steps, self._numbers)

    def _show(self, text: str, done: float, numbers: str, last: bool = False) -> None:
        self._shown = time.monotonic()
        if done:
            left = int((self._shown - self._started) / done * (self.epochs - done))
            text = f"{text}  {left // 60}:{left % 60:02d} left"
        text += numbers
        if not self._live:
            print(text, flush=True)
        elif last:
            print(f"\r\033[K{text}", flush=True)
        else:
            # A longer line would wrap, and only its second half be overwritten.
            print(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
