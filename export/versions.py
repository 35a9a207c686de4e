"""Numbered versions of a model in one directory, written aside and renamed."""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

from keras_dml.utils.files import flush, is_left_over, process_mark

# Folders in a version: the exact twin, and what the gallery holds.
EXACT = "exact"
GALLERY = "gallery"
# The twin's folder in versions with a manifest of format 1.
OLD_EXACT = "brute_force"
PARTIAL_PREFIX = ".writing-"
# Folders with the shards of embeddings, for builds that go on where they stopped.
CACHE_PREFIX = ".embedding-"
OWNER_FILE = "owner"
# The highest number that was ever given here: one that was deleted does not come back as another version. Who publishes
# holds its lock.
NEWEST_FILE = ".newest"


def versions(directory: str | os.PathLike[str]) -> list[int]:
    """Version numbers in a model directory, ascending; only those with a manifest."""
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        return []
    return sorted(
        int(path.name)
        for path in directory.iterdir()
        if path.name.isdecimal() and path.name == str(int(path.name)) and (path / "manifest.json").is_file()
    )


def resolve(path: str | os.PathLike[str]) -> pathlib.Path:
    """The version directory that `path` means: itself, or the newest version in it."""
    path = pathlib.Path(path)
    if (path / "manifest.json").is_file():
        return path
    found = versions(path)
    if not found:
        reason = "holds neither a manifest.json nor numbered versions" if path.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"`path` must be a model directory or one of its versions. Received: {path}, which {reason}"
        )
    return path / str(found[-1])


def exact_twin(version: pathlib.Path) -> pathlib.Path:
    """The folder of a version's exact twin."""
    old = version / OLD_EXACT
    return old if old.is_dir() else version / EXACT


@contextlib.contextmanager
def partial_version(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to write a version into; removed at the end of the context unless `publish` took it."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob(f"{PARTIAL_PREFIX}*"):
        # Another build may be removing it at this moment; what stays is left to the next build.
        with contextlib.suppress(OSError):
            if is_left_over(old.name.removeprefix(PARTIAL_PREFIX).rpartition("-")[0], old):
                shutil.rmtree(old)
    folder = directory / f"{PARTIAL_PREFIX}{process_mark()}-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        yield folder
    finally:
        # Gone after `publish`. What cannot be removed must not hide an error on its way.
        shutil.rmtree(folder, ignore_errors=True)


def remove_caches(directory: pathlib.Path, but: pathlib.Path | None = None) -> None:
    """Deletes the shards that builds which were killed have left, those in `but` excepted."""
    for cache in directory.glob(f"{CACHE_PREFIX}*"):
        with contextlib.suppress(OSError):
            owner = cache / OWNER_FILE
            mark = owner.read_text(encoding="utf-8") if owner.is_file() else ""
            if cache != but and is_left_over(mark, cache):
                shutil.rmtree(cache)


def next_version(directory: pathlib.Path) -> int:
    """One above every number that is in the directory, complete or not, or ever was."""
    numbers = [int(path.name) for path in directory.iterdir() if path.name.isdecimal()]
    return max([*numbers, _newest(directory)]) + 1


def _newest(directory: pathlib.Path) -> int:
    try:
        return int((directory / NEWEST_FILE).read_text(encoding="utf-8").strip() or 0)
    except FileNotFoundError:
        return 0
    except ValueError as error:
        path = directory / NEWEST_FILE
        raise ValueError(
            f"{path} is damaged. Expected: the highest version number. Write it there, or delete it"
        ) from error


@contextlib.contextmanager
def _locked(directory: pathlib.Path) -> Iterator[int]:
    """A descriptor of `NEWEST_FILE`, under a lock that keeps others waiting and goes with the process that holds it."""
    descriptor = os.open(directory / NEWEST_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def publish(folder: pathlib.Path, directory: pathlib.Path, number: int) -> pathlib.Path:
    """Renames a written version into place, after its bytes have reached the disk.

    Raises:
        FileExistsError: Another build took the number; it may be deleted again.
        OSError: The folder cannot be written to disk or renamed.
    """
    for path in sorted(folder.rglob("*")):
        flush(path)
    flush(folder)
    target = directory / str(number)
    taken = FileExistsError(f"{target} exists: another build has written this version")
    with _locked(directory) as newest:
        # Renaming onto an existing empty folder would succeed.
        if target.exists() or number <= _newest(directory):
            raise taken
        try:
            os.rename(folder, target)
        except OSError as error:
            # Any other error would come back with the next number as well.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise taken from error
        flush(directory)
        # In one piece and of one length: never half a number.
        os.pwrite(newest, f"{number:020d}\n".encode(), 0)
        os.fsync(newest)
    return target


def prune(directory: pathlib.Path, keep: int) -> list[int]:
    """Deletes all but the newest `keep` versions; returns the numbers deleted."""
    if keep < 1:
        raise ValueError(f"`keep` must be at least 1. Received: keep={keep}")
    removed = versions(directory)[:-keep]
    for number in removed:
        # Out of sight first, so that nobody loads half a version.
        aside = directory / f"{PARTIAL_PREFIX}{process_mark()}-{uuid.uuid4().hex[:8]}"
        os.rename(directory / str(number), aside)
        # What cannot be removed now (a file that is still read, on some systems) goes with a later build.
        shutil.rmtree(aside, ignore_errors=True)
    return removed
