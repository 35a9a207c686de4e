"""Files that are there whole or not at all, and their checksums."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def written_aside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path beside `path` to write to; at the end of the context it is flushed to disk and takes the name `path`.

    After a crash or a loss of power at any moment, `path` is what it was or what was written, never a part of it. The
    name has the suffixes of `path`, as some writers choose their format by them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".partial-{path.name}")
    try:
        yield aside
        flush(aside)
        os.replace(aside, path)
        flush(path.parent)
    except BaseException:
        # What failed matters more than what cannot be removed.
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def flush(path: pathlib.Path) -> None:
    """Waits until a file's bytes, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` as JSON; see `written_aside`."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=1, default=_plain) + "\n", encoding="utf-8")


def as_json(value: Any) -> Any:
    """`value` as it would be read back from a JSON file: tuples become lists."""
    return json.loads(json.dumps(value, default=_plain))


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is not JSON; the text names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        size = path.stat().st_size
        found = "an empty file" if not size else f"{size} bytes that are not JSON ({error})"
        raise ValueError(f"{path} is damaged. Expected: JSON. Found: {found}") from error


def sha256(path: pathlib.Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
