"""How the commands that write a version run and end."""

import pathlib
from collections.abc import Callable

from keras_dml.utils.progress import Progress, TerminalProgress


def run_command(command: Callable[[Progress], pathlib.Path]) -> int:
    """Runs a command that writes a version, prints where, and returns the exit status; errors are one line each."""
    progress = TerminalProgress()
    try:
        version = command(progress)
    except (ValueError, OSError, RuntimeError) as error:
        progress.close()
        progress.message(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        progress.close()
        progress.message("interrupted; the same command goes on from here")
        return 130
    print(version)
    return 0
