"""How commands end."""

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a command and ends the process with the exit status it returns.

    Where nobody reads the output any longer, as in `... --list | head`, it ends quietly, with the status that a shell
    reports of a program that SIGPIPE has ended.
    """
    try:
        try:
            status = main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer would fail once more when Python flushes it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    sys.exit(status)
