"""How commands end."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn


@contextlib.contextmanager
def unreadable_images_named() -> Iterator[None]:
    """A context in which an image that cannot be read is a ValueError that says which, and why.

    Such an image is met inside TensorFlow's graph, which buries the message in a trace of its own.
    """
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:
        found = re.search("DataError: (.*)", str(error))
        if found is None:
            raise
        raise ValueError(found[1]) from error


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
