"""What all commands share: how they parse, warn, fail and end.

Exit status: 0; 1 for a failure; 2 for a wrong call, as argparse has it; 130 after Ctrl-C.
"""

import argparse
import contextlib
import logging
import os
import pathlib
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from keras_dml.utils.requirements import backend_required

FAILURE, WRONG_CALL, INTERRUPTED = 1, 2, 130
# TensorFlow's own messages would bury the progress: a missing GPU, kernels it would rather have, retracing. Here, since
# commands import this before TensorFlow, which looks once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


class WrongCallError(ValueError):
    """The command line asks for what does not exist or does not fit."""


class Parser(argparse.ArgumentParser):
    """A command's parser, whose errors look like those of `execute`.

    Args:
        name: The command: `keras-dml NAME`.
        description: What it does, as written.
        **kwargs: Of `argparse.ArgumentParser`.
    """

    def __init__(self, name: str, description: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog=f"keras-dml {name}", description=description, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(WRONG_CALL, f"error: {message}\n")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The options about a benchmark's data: --data-dir, --subset, --bad-images."""
    parser.add_argument(
        "--data-dir", type=pathlib.Path, metavar="DIR", help="folder with the benchmark's images, where it needs one"
    )
    parser.add_argument("--subset", action="store_true", help="accept data that are not the published protocol's")
    parser.add_argument(
        "--bad-images", choices=("fail", "skip"), default="fail", help="what an unreadable image does (default: fail)"
    )


def positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


class OldFlag(argparse.Action):
    """A flag without a value that is now `--option value`; hidden from the help.

    Args:
        instead: What to give instead, as in "--bad-images skip".
        value: What the option's destination is set to.
        **kwargs: Of `argparse.Action`.
    """

    def __init__(self, instead: str, value: Any, **kwargs: Any) -> None:
        kwargs.update(nargs=0, help=argparse.SUPPRESS, default=argparse.SUPPRESS)
        super().__init__(**kwargs)
        self.instead = instead
        self.value = value

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        print(f"warning: {option_string} is now {self.instead}", file=sys.stderr)
        setattr(namespace, self.dest, self.value)


@contextlib.contextmanager
def wrong_call() -> Iterator[None]:
    """A context in which what is not there or does not fit is the fault of the command line."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise WrongCallError(str(error)) from error


def execute(work: Callable[[], int | None], interrupted: str = "Interrupted.") -> int:
    """Does a command's work and returns its exit status; errors and warnings are one line each, on stderr.

    Args:
        work: Returns an exit status, or None for 0.
        interrupted: What to say after Ctrl-C.
    """
    try:
        with backend_required():
            from keras_dml.data.errors import unreadable_images_named
    except ImportError as error:
        _say(error)
        return FAILURE
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    former = warnings.formatwarning
    warnings.formatwarning = _one_line
    try:
        with unreadable_images_named():
            return work() or 0
    except BrokenPipeError:
        # An OSError that is no error of the command's: see `run`.
        raise
    except WrongCallError as error:
        _say(error)
        return WRONG_CALL
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        _say(error)
        return FAILURE
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        return INTERRUPTED
    finally:
        warnings.formatwarning = former


def _say(error: Exception) -> None:
    print(f"error: {error}", file=sys.stderr)


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"warning: {message}\n"


def program() -> str:
    """How this installation's commands are typed from here, as in `.venv/bin/keras-dml`."""
    script = pathlib.Path(sys.executable).with_name("keras-dml")
    if not script.exists():
        return "keras-dml"
    here = pathlib.Path.cwd()
    return str(script.relative_to(here)) if script.is_relative_to(here) else str(script)


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
