"""Arrays that take a while to make, kept in files under `$KERAS_DML_CACHE` (`~/.cache/keras_dml`)."""

import contextlib
import os
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np

from keras_dml.utils.files import written_aside

Arrays = dict[str, np.ndarray]


def cached(name: str, make: Callable[[], Arrays]) -> Arrays:
    """What `make` returns, read from the cache where it is there and whole.

    Args:
        name: Path below the cache's folder, ending in `.npz`. It must tell all that the arrays depend on.
        make: Makes the arrays; none of them may need pickling.
    """
    path = cache_folder() / name
    arrays = read_arrays(path)
    if arrays is None:
        arrays = make()
        write_arrays(path, arrays)
    return arrays


def cache_folder() -> pathlib.Path:
    """`$KERAS_DML_CACHE`, or `~/.cache/keras_dml`."""
    return pathlib.Path(os.environ.get("KERAS_DML_CACHE", "~/.cache/keras_dml")).expanduser()


def read_arrays(path: pathlib.Path) -> Arrays | None:
    """The arrays of an .npz of the cache; None where it is not there or not whole."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            # Reading compares the checksum of every member.
            return dict(saved)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def write_arrays(path: pathlib.Path, arrays: Arrays) -> None:
    """Writes arrays into the cache, if there is a place for it."""
    # Without a place for the cache the arrays are made again the next time.
    with contextlib.suppress(OSError), written_aside(path) as aside:
        np.savez(aside, **arrays)  # type: ignore[arg-type]
