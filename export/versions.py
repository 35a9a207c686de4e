"""Numbered versions of a model in one directory, written aside and renamed."""

import contextlib
import errno
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Iterator

from keras_dml.utils.files import flush

# Folders in a version: the exact twin, and what the gallery holds.
EXACT = "exact"
GALLERY = "gallery"
# The twin's folder in versions with a manifest of format 1.
OLD_EXACT = "brute_force"
PARTIAL_PREFIX = ".writing-"
# A build that takes longer than this is taken for dead.
STALE_SECONDS = 2 * 24 * 3600


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
            if time.time() - old.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(old)
    folder = directory / f"{PARTIAL_PREFIX}{uuid.uuid4().hex[:12]}"
    folder.mkdir()
    try:
        yield folder
    finally:
        # Gone after `publish`. What cannot be removed must not hide an error on its way.
        shutil.rmtree(folder, ignore_errors=True)


def next_version(directory: pathlib.Path) -> int:
    """One above every number in the directory, complete or not."""
    numbers = [int(path.name) for path in directory.iterdir() if path.name.isdecimal()]
    return max(numbers, default=0) + 1


def publish(folder: pathlib.Path, directory: pathlib.Path, number: int) -> pathlib.Path:
    """Renames a written version into place, after its bytes have reached the disk.

    Raises:
        FileExistsError: Another build took the number.
        OSError: The folder cannot be written to disk or renamed.
    """
    for path in sorted(folder.rglob("*")):
        flush(path)
    flush(folder)
    target = directory / str(number)
    taken = FileExistsError(f"{target} exists: another build has written this version")
    # Renaming onto an existing empty folder would succeed.
    if target.exists():
        raise taken
    try:
        os.rename(folder, target)
    except OSError as error:
        # Any other error would come back with the next number as well.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        raise taken from error
    flush(directory)
    return target


def prune(directory: pathlib.Path, keep: int) -> list[int]:
    """Deletes all but the newest `keep` versions; returns the numbers deleted."""
    if keep < 1:
        raise ValueError(f"`keep` must be at least 1. Received: keep={keep}")
    removed = versions(directory)[:-keep]
    for number in removed:
        # Out of sight first, so that nobody loads half a version.
        aside = directory / f"{PARTIAL_PREFIX}pruned-{number}-{uuid.uuid4().hex[:8]}"
        os.rename(directory / str(number), aside)
        # What cannot be removed now (a file that is still read, on some systems) goes with a later build.
        shutil.rmtree(aside, ignore_errors=True)
    return removed
