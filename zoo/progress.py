"""One line that says what is being trained and how long it will take."""

import sys
import time


class Progress:
    """Progress of an experiment on the terminal; in a log file, a line now and then.

    Args:
        epochs: Epochs that are still to be trained, over all runs.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.done = 0
        self._started = time.monotonic()
        self._next_log = 0.0
        self._live = sys.stdout.isatty()

    def update(self, run: str, epoch: int, run_epochs: int, logs: dict[str, float]) -> None:
        """Shows the end of an epoch."""
        self.done += 1
        spent = time.monotonic() - self._started
        left = spent / self.done * (self.epochs - self.done)
        shown = {"loss": logs["loss"], **{k: v for k, v in logs.items() if k in ("val_recall@1", "val_map@r")}}
        numbers = "  ".join(f"{name.removeprefix('val_')} {value:.4f}" for name, value in shown.items())
        text = f"{run:<18} epoch {epoch}/{run_epochs}  {numbers}  {int(left) // 60}:{int(left) % 60:02d} left"
        if self._live:
            print(f"\r\033[K{text}", end="\n" if epoch == run_epochs else "", flush=True)
        elif epoch == run_epochs or spent >= self._next_log:
            self._next_log = spent + 10
            print(text, flush=True)
