"""What an experiment tells of its progress: which run, how far, how long still, and the numbers so far."""

import time

from keras_dml.utils.progress import TerminalProgress
from zoo.training import Watcher

EVERY, EVERY_IN_A_LOG = 1.0, 60.0
"""Seconds between signs of life within an epoch, on a terminal and in a file."""


class ExperimentProgress:
    """Progress of all runs of an experiment, on one display.

    Args:
        epochs: Epochs that are still to be trained, over all runs.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.done = 0
        self._display = TerminalProgress()
        self._started = self._shown = time.monotonic()
        self._next_log = 0.0
        self._numbers = ""

    def run(self, title: str, epochs: int) -> Watcher:
        """A watcher for the next run, of `epochs` epochs."""
        return _RunWatcher(self, title, epochs)

    def close(self) -> None:
        """Ends the display."""
        self._display.close()

    def epoch(self, run: str, run_epochs: int, epoch: int, logs: dict[str, float]) -> None:
        """Shows the end of an epoch, the `epoch`-th of the run."""
        self.done += 1
        now = time.monotonic()
        last = epoch == run_epochs
        shown = {"loss": logs["loss"], **{k: v for k, v in logs.items() if k in ("val_recall@1", "val_map@r")}}
        numbers = "".join(f"  {name.removeprefix('val_')} {value:.4f}" for name, value in shown.items())
        if self._display.live or last or now - self._started >= self._next_log:
            self._next_log = now - self._started + 10
            self._show(f"{run:<18} epoch {epoch}/{run_epochs}", self.done, numbers, last)
        self._numbers = "" if last else numbers

    def step(self, run: str, run_epochs: int, epochs: int, step: int, steps: int) -> None:
        """Shows how far an epoch is, now and then: `step` of its `steps`, after `epochs` epochs of the run."""
        if time.monotonic() - self._shown >= (EVERY if self._display.live else EVERY_IN_A_LOG):
            where = f"{run:<18} epoch {epochs + 1}/{run_epochs}, step {step}/{steps}"
            self._show(where, self.done + step / steps, self._numbers)

    def _show(self, text: str, done: float, numbers: str, last: bool = False) -> None:
        self._shown = time.monotonic()
        left = ""
        if done:
            seconds = int((self._shown - self._started) / done * (self.epochs - done))
            left = f"  {seconds // 60}:{seconds % 60:02d} left"
        if last or not self._display.live:
            self._display.message(f"{text}{left}{numbers}")
        else:
            self._display.advance("training", done, self.epochs, f"{text}{left}{numbers}")


class _RunWatcher(Watcher):
    """Tells `ExperimentProgress` about one run."""

    def __init__(self, progress: ExperimentProgress, title: str, epochs: int) -> None:
        self._progress = progress
        self._title = title
        self._epochs = epochs

    def on_step(self, epochs: int, step: int, steps: int) -> None:
        self._progress.step(self._title, self._epochs, epochs, step, steps)

    def on_epoch(self, epochs: int, logs: dict[str, float]) -> None:
        self._progress.epoch(self._title, self._epochs, epochs, logs)
