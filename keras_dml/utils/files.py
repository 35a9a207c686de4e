"""Files that are there whole or not at all, their checksums, and what JSON files hold."""

import contextlib
import glob
import hashlib
import json
import os
import pathlib
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

STALE_SECONDS: Final = 24 * 3600
"""A file that has been half written for so long belongs to a process that is gone."""
MOST_JSON: Final = 16 * 2**20
"""Bytes of a JSON file that is read: objects take some twenty times as much memory."""


@contextlib.contextmanager
def written_aside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path beside `path` to write to; at the end of the context it is flushed to disk and takes the name `path`.

    After a crash or a loss of power at any moment, `path` is what it was or what was written, never a part of it. The
    name has the suffixes of `path`, as some writers choose their format by them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of this process alone: two of them that write the same file may not write into each other's.
    aside = path.with_name(f".partial-{process_mark()}-{path.name}")
    _remove_stale(path)
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


def _remove_stale(path: pathlib.Path) -> None:
    """Deletes what processes that are gone have left of `path`, half written."""
    for old in path.parent.glob(f".partial-*-*-{glob.escape(path.name)}"):
        # Another process may be removing it at this moment.
        with contextlib.suppress(OSError):
            if is_left_over("-".join(old.name.split("-")[1:3]), old):
                old.unlink()


def process_mark() -> str:
    """This process in the name of what it writes, for `is_left_over`: letters, a hyphen, a number."""
    return f"{_host()}-{os.getpid()}"


def is_left_over(mark: str, path: pathlib.Path) -> bool:
    """Whether what is at `path` belongs to a process that is gone.

    Args:
        mark: The `process_mark` of its writer, or anything else where none is known.
        path: Tells by its age where the process is another machine's.
    """
    host, _, process = mark.partition("-")
    return (host == _host() and _is_gone(process)) or time.time() - path.stat().st_mtime > STALE_SECONDS


def _host() -> str:
    """This machine, in eight letters: on a shared disk, equal process ids may be of two machines."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_gone(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, PermissionError):
        return False
    return False


def check_output(output: pathlib.Path) -> None:
    """Looks whether a file can be written, before the work that fills it.

    Raises:
        ValueError: It cannot: a folder of its path is a file, or is not ours to write in.
    """
    if output.is_dir():
        raise ValueError(f"{output} is a folder. Give the name of a file in it")
    if output.exists() and not output.is_file():
        raise ValueError(f"{output} cannot be written: it is a pipe or a device")
    folder = output.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"{output} cannot be written: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{output} cannot be written: no permission to write in {folder}")


def check_folder(folder: pathlib.Path) -> None:
    """Looks whether a folder can be written in, or made, before the work that fills it.

    Raises:
        ValueError: It cannot.
    """
    # Of a file in it nothing but the way there is looked at.
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} cannot be written in: it is a file, not a folder")
    check_output(folder / "file")


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


def check_regular(path: pathlib.Path) -> None:
    """Raises unless `path` is a file with content: a pipe would be waited for, perhaps for ever.

    Raises:
        ValueError: It is something else.
        OSError: It cannot be looked at, or is not there.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ValueError(f"{path} is a folder. A file is expected")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is a pipe or a device. A file is expected")


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is not JSON, or larger than anything that is written here; the text names the file.
    """
    check_regular(path)
    size = path.stat().st_size
    if size > MOST_JSON:
        raise ValueError(f"{path} is damaged. Expected: JSON of at most {MOST_JSON} bytes. Found: {size} bytes")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    # Brackets in brackets in brackets exhaust the stack.
    except (ValueError, RecursionError) as error:
        found = "an empty file" if not size else f"{size} bytes that are not JSON ({error})"
        raise ValueError(f"{path} is damaged. Expected: JSON. Found: {found}") from error


def read_json_object(
    path: pathlib.Path, optional: Mapping[str, type | tuple[type, ...]] | None = None
) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Args:
        path: The file.
        optional: What the values of some keys must be, where the keys are there and not null.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It holds something else; the text names the file and the key.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged. Expected: a JSON object. Found: {type(content).__name__}")
    for key, kinds in (optional or {}).items():
        if content.get(key) is not None and not isinstance(content[key], kinds):
            expected = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
            raise ValueError(
                f"{path} is damaged. Expected: `{key}` to be a {expected}. Found: {type(content[key]).__name__}"
            )
    return content


def sha256(path: pathlib.Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
