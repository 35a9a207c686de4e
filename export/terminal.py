"""Progress and messages of the command line modules."""

import pathlib
import sys
import time
from collections.abc import Callable


class Terminal:
    """Writes to stderr: a line rewritten in place on a terminal, now and then a line elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = 0.0
        self._start: dict[str, float] = {}
        self._open = False

    def report(self, text: str) -> None:
        """One line."""
        if self._open:
            print(file=sys.stderr)
            self._open = False
        print(text, file=sys.stderr, flush=True)

    def progress(self, stage: str, done: int, total: int) -> None:
        """The state of a stage."""
        now = time.monotonic()
        first = stage not in self._start
        start = self._start.setdefault(stage, now)
        if not first and done < total and now - self._last < (0.2 if self._live else 5):
            return
        self._last = now
        rate = done / (now - start) if now > start and not first else 0
        text = f"{stage}: {done:,} of {total:,}" + (f", {rate:,.0f}/s" if rate else "")
        if not self._live:
            self.report(text)
            return
        print(f"\r{text}\033[K", end="" if done < total else "\n", file=sys.stderr, flush=True)
        self._open = done < total


def run_command(command: Callable[[Terminal], pathlib.Path]) -> int:
    """Runs a command that writes a version, prints where, and returns the exit status; errors are one line each."""
    terminal = Terminal()
    try:
        version = command(terminal)
    except (ValueError, OSError, RuntimeError) as error:
        terminal.report(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        terminal.report("interrupted; the same command goes on from here")
        return 130
    print(version)
    return 0
