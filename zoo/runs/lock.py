"""One process at a time in an experiment folder."""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import socket
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def locked(file: pathlib.Path) -> Iterator[None]:
    """Holds `file` as a lock. The system lets go of it when the process ends, however it ends.

    Raises:
        ValueError: Another process holds it; the text names that process.
    """
    made = [folder for folder in file.parents if not folder.exists()]
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise ValueError(
                f"{file.parent} is in use by another process: {holder}. Wait until it ends, stop it, or give another "
                "--output"
            ) from None
        # The process before may have removed the file after we had opened it.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == os.stat(file).st_ino:
                break
        os.close(descriptor)
    try:
        who = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": " ".join(sys.argv),
            "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(who).encode())
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)
        # A folder stays if anything was written into it.
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()


def _holder(descriptor: int) -> str:
    """Who wrote the lock file, in words."""
    try:
        who = json.loads(os.pread(descriptor, 65536, 0))
        return f"number {who['pid']} on {who['host']} since {who['since']} ({who['command']})"
    except (ValueError, KeyError, TypeError):
        # It has the lock and has not yet said who it is.
        return "one that has just started"
