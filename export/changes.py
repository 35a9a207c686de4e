"""Items that were changed since a version was built: a log beside the versions, in SQLite."""

import contextlib
import dataclasses
import json
import pathlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_dml.utils.encoder_files import ENCODER_FILE

NAME = "changes.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS changes (
    id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, space TEXT NOT NULL, embedding BLOB, metadata TEXT, picture BLOB
);
CREATE INDEX IF NOT EXISTS by_sequence ON changes (sequence);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """What became of an item.

    Args:
        id: The item's id.
        embedding: `(d,)` float32; None where the item was deleted.
        metadata: A value for each of the gallery's columns.
        picture: A small picture of it, or nothing.
        space: What embedded it, as `embedding_space` tells.
        sequence: Its place among all changes; given by the log.
    """

    id: str
    embedding: np.ndarray | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    picture: bytes = b""
    space: str = ""
    sequence: int = 0


def embedding_space(manifest: Mapping[str, Any]) -> str:
    """What tells whether embeddings of two versions can be compared: their width and the encoder's checksum."""
    encoder = manifest["files"].get(ENCODER_FILE, {}).get("sha256", "")
    return f"{manifest['embedding_dim']} {encoder}".strip()


def check_space(changes: Iterable[Change], manifest: Mapping[str, Any]) -> None:
    """Raises where changes were embedded otherwise than a version was.

    Raises:
        ValueError: So it is.
    """
    space = embedding_space(manifest)
    strange = [change.id for change in changes if change.embedding is not None and change.space != space]
    if strange:
        raise ValueError(
            f"{NAME}: {len(strange)} items, first {strange[0]!r}, were embedded by another encoder than that of "
            f"version {manifest['version']}. Update a version of theirs, or move the file away and add them again"
        )


class ChangeLog:
    """The newest state of every item that was changed, by id; on the disk before `append` returns.

    SQLite keeps it whole whenever a process is killed, and lets several write one after the other.

    Args:
        directory: The model directory.

    Raises:
        ValueError: The file is no such log.
        OSError: It cannot be opened.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self.path = directory / NAME
        self._lock = threading.Lock()
        with self._named():
            # Every statement is a transaction of its own, except between BEGIN and COMMIT.
            self._connection = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            # Committed is flushed: a change that was acknowledged outlives the machine's crash too.
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(SCHEMA)

    @classmethod
    def existing(cls, directory: pathlib.Path) -> "ChangeLog | None":
        """The log of a model directory, or None where nothing was ever changed."""
        return cls(directory) if (directory / NAME).exists() else None

    @property
    def last(self) -> int:
        """The sequence number of the last change, 0 before the first."""
        with self._lock, self._named():
            return self._last()

    def append(self, changes: Sequence[Change]) -> int:
        """Writes changes, all or none; returns the sequence number of the last one."""
        with self._lock, self._named(), self._transaction():
            number = self._last()
            rows = []
            for change in changes:
                number += 1
                embedding = None if change.embedding is None else np.asarray(change.embedding, "<f4").tobytes()
                metadata = json.dumps(dict(change.metadata), ensure_ascii=False, allow_nan=False)
                rows.append((change.id, number, change.space, embedding, metadata, change.picture))
            self._connection.executemany("INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._connection.execute("INSERT OR REPLACE INTO state VALUES ('last', ?)", (number,))
        return number

    def since(self, sequence: int) -> list[Change]:
        """The changes after a sequence number, in their order."""
        with self._lock, self._named():
            rows = self._connection.execute(
                "SELECT id, sequence, space, embedding, metadata, picture FROM changes WHERE sequence > ? "
                "ORDER BY sequence",
                (sequence,),
            ).fetchall()
        return [
            Change(
                name,
                None if embedding is None else np.frombuffer(embedding, "<f4").astype(np.float32),
                json.loads(metadata),
                picture,
                space,
                number,
            )
            for name, number, space, embedding, metadata, picture in rows
        ]

    def forget(self, through: int) -> None:
        """Deletes the changes up to a sequence number: those that every version holds."""
        with self._lock, self._named():
            self._connection.execute("DELETE FROM changes WHERE sequence <= ?", (through,))

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def _last(self) -> int:
        found = self._connection.execute("SELECT value FROM state WHERE name = 'last'").fetchone()
        return found[0] if found else 0

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        # At once for writing: two that have read the same last number would both write the next.
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            # After some errors SQLite has done so itself.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self.path} is damaged ({error}). Put a copy in its place, or move it away: changes that no version "
                "holds yet are lost then"
            ) from error
