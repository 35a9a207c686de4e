"""How long work tells how far it is."""

import sys
import time
from typing import Any


class Progress:
    """Is told how far work is, and shows nothing: the default of everything that takes one."""

    def message(self, text: str) -> None:
        """One line about what happens."""

    def advance(self, stage: str, done: float, total: float, note: str = "") -> None:
        """`done` of `total` items of a stage are finished.

        Args:
            stage: What is being done, as in "embedding".
            done: Items finished so far, this call's included.
            total: Items of the stage.
            note: What else there is to say at this point.
        """

    def close(self) -> None:
        """Ends the display of a stage that was not finished."""


SILENT = Progress()


class TerminalProgress(Progress):
    """Shows progress on stderr: tqdm's bar on a terminal, a line now and then in a file.

    Args:
        log_every: Seconds between lines where stderr is not a terminal.
    """

    def __init__(self, log_every: float = 10.0) -> None:
        self._log_every = log_every
        self._bar: Any = None
        self._stage: str | None = None
        self._first = 0.0
        self._started = self._logged = time.monotonic()

    @property
    def live(self) -> bool:
        """Whether somebody watches: stderr is a terminal."""
        return sys.stderr.isatty()

    def message(self, text: str) -> None:
        if self._bar is not None:
            # Above the bar, which stays.
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def advance(self, stage: str, done: float, total: float, note: str = "") -> None:
        if stage != self._stage:
            self._open(stage, done, total)
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif done >= total or time.monotonic() - self._logged >= self._log_every:
            self._logged = time.monotonic()
            spent = self._logged - self._started
            rate = f", {(done - self._first) / spent:,.0f}/s" if spent > 0 and done > self._first else ""
            print(f"{stage}: {done:,.0f} of {total:,.0f}{rate}{note and '  ' + note}", file=sys.stderr, flush=True)
        if done >= total:
            self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = self._stage = None

    def _open(self, stage: str, done: float, total: float) -> None:
        self.close()
        self._stage, self._first = stage, done
        self._started = self._logged = time.monotonic()
        if self.live:
            from tqdm import tqdm

            counts = "{n:.1f}/{total:.0f}" if isinstance(done, float) else "{n}/{total}"
            layout = "{desc}: {percentage:3.0f}%|{bar}| " + counts + " [{elapsed}<{remaining}{postfix}]"
            self._bar = tqdm(
                total=total, initial=done, desc=stage, file=sys.stderr, bar_format=layout, dynamic_ncols=True
            )
