"""A version with the changes that were made since."""

import dataclasses
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from export.changes import Change, ChangeLog, check_space
from export.filtered_search import FilteredSearch
from export.gallery import Gallery
from export.index.spec import largest_value
from export.search_model import SearchModel, encoded

# Changes that are searched beside a version; an update folds them in.
MOST_CHANGES = 50_000
# Rows out of sight for which the index is asked for so many more; beyond, what is left is searched exactly.
MOST_HIDDEN = 200


def items_gallery(
    base: Gallery, metric: str, ids: Sequence[str], embeddings: np.ndarray, metadata: Sequence[Mapping[str, Any]]
) -> Gallery:
    """Items as a gallery with the columns of another.

    Args:
        base: The gallery that they are to be part of.
        metric: Its metric.
        ids: `n` ids.
        embeddings: `(n, d)` floats.
        metadata: Of each item, a value for every column of `base`.

    Raises:
        ValueError: Something does not fit.
    """
    columns = {}
    for name, entry in zip(ids, metadata, strict=True):
        if entry.keys() != base.metadata.keys():
            raise ValueError(
                f"Item {name!r} must have the gallery's metadata columns, {', '.join(base.metadata) or 'none'}. "
                f"Received: {', '.join(map(str, entry)) or 'none'}"
            )
        for column, values in base.metadata.items():
            if not _fits(values.dtype, entry[column]):
                raise ValueError(
                    f"Item {name!r}: column {column!r} holds {_kind(values.dtype)}. Received: {entry[column]!r}"
                )
    for column, values in base.metadata.items():
        columns[column] = np.empty(len(ids), values.dtype)
        columns[column][:] = [entry[column] for entry in metadata]
    embeddings = np.asarray(embeddings, np.float32).reshape(len(ids), -1)
    if embeddings.shape[1] != base.dim:
        raise ValueError(f"Embeddings must have {base.dim} numbers. Received: {embeddings.shape[1]}")
    limit = largest_value(base.dim)
    if metric != "cosine" and np.abs(embeddings).max(initial=0) > limit:
        raise ValueError(f"Embeddings may hold values up to {limit:g}, beyond which scores overflow")
    return Gallery(embeddings, tuple(ids), columns)


class Overlay:
    """Searches a version and the changes since it was built as one.

    Items that were deleted or replaced are out of sight, added ones are compared exactly. Safe on several threads.

    Args:
        model: The version.
        log: The changes.

    Raises:
        ValueError: The changes do not fit the version.
    """

    def __init__(self, model: SearchModel, log: ChangeLog) -> None:
        self.model = model
        self.log = log
        self._through = int(model.manifest.get("changes_through", 0))
        self._changes: dict[str, Change] = {}
        self._positions: dict[str, int] | None = None
        self._snapshot: _Snapshot | None = None
        self._lock = threading.Lock()
        self.refresh()

    def __len__(self) -> int:
        return len(self._changes)

    def refresh(self) -> None:
        """Reads the changes that were made since the last look."""
        with self._lock:
            found = self.log.since(self._through)
            if not found:
                return
            check_space(found, self.model.manifest)
            self._changes |= {change.id: change for change in found}
            self._through = found[-1].sequence
            self._snapshot = None

    @property
    def hidden(self) -> np.ndarray:
        """Row numbers of the version's items that were deleted or replaced, ascending."""
        return self._current().hidden

    def holds(self, name: str) -> bool:
        """Whether there is an item of this id."""
        with self._lock:
            if name in self._changes:
                return self._changes[name].embedding is not None
            return name in self._rows()

    def search(self, embeddings: np.ndarray, k: int, where: Any = None) -> dict[str, np.ndarray]:
        """The outputs of `search_embeddings`'s signature; the `indices` of items that no version holds yet are -1.

        Args:
            embeddings: `(n, d)` finite float32.
            k: Neighbors per query.
            where: A filter; see `export.where.where_mask`.
        """
        snapshot = self._current()
        model, gallery, hidden = self.model, self.model.gallery, snapshot.hidden
        size = len(gallery)
        if where is None and len(hidden) <= MOST_HIDDEN:
            found = model.call("search_embeddings", {"embeddings": embeddings, "k": k + len(hidden)})
            seen = ~np.isin(found["indices"], hidden)
            order = np.argsort(~seen, axis=1, kind="stable")[:, : min(k, size - len(hidden))]
            rows = np.take_along_axis(found["indices"], order, axis=1)
            scores = np.take_along_axis(found["scores"], order, axis=1)
        else:
            kept = model.filtered.rows({} if where is None else where)
            rows, scores = model.filtered.nearest(embeddings, k, kept[~np.isin(kept, hidden)])
        if snapshot.added is not None:
            more, more_scores = snapshot.added.search(embeddings, k, {} if where is None else where)
            scores = np.concatenate([scores, more_scores], axis=1)
            rows = np.concatenate([rows, more + size], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores = np.take_along_axis(scores, order, axis=1)
            rows = np.take_along_axis(rows, order, axis=1)
        new = rows >= size

        def column(values: Any, added: Any) -> np.ndarray:
            chosen = np.empty(rows.shape, values.dtype)
            chosen[~new] = values[rows[~new]]
            if new.any():
                chosen[new] = added[rows[new] - size]
            return encoded(chosen)

        ids = np.empty(rows.shape, object)
        ids[~new] = [gallery.ids[row] for row in rows[~new].tolist()]
        ids[new] = [snapshot.items[row - size].id for row in rows[new].tolist()]
        outputs = {"ids": encoded(ids), "scores": scores, "indices": np.where(new, -1, rows).astype(np.int32)}
        for name, values in gallery.metadata.items():
            outputs[name] = column(values, snapshot.columns.get(name))
        return outputs

    def _rows(self) -> dict[str, int]:
        if self._positions is None:
            self._positions = {name: row for row, name in enumerate(self.model.gallery.ids)}
        return self._positions

    def _current(self) -> "_Snapshot":
        with self._lock:
            if self._snapshot is None:
                rows = self._rows()
                hidden = sorted(rows[name] for name in self._changes if name in rows)
                items = [change for change in self._changes.values() if change.embedding is not None]
                metric = self.model.manifest["index"]["metric"]
                added, columns = None, {}
                if items:
                    gallery = items_gallery(
                        self.model.gallery,
                        metric,
                        [item.id for item in items],
                        np.stack([item.embedding for item in items if item.embedding is not None]),
                        [item.metadata for item in items],
                    )
                    added, columns = FilteredSearch(gallery, metric), gallery.metadata
                self._snapshot = _Snapshot(np.array(hidden, np.int64), items, added, columns)
            return self._snapshot


@dataclasses.dataclass(frozen=True, eq=False)
class _Snapshot:
    hidden: np.ndarray
    items: list[Change]
    added: FilteredSearch | None
    columns: Mapping[str, np.ndarray]


def _fits(dtype: np.dtype, value: Any) -> bool:
    if dtype.kind == "O":
        return isinstance(value, str)
    if dtype.kind == "b":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if dtype.kind == "i":
        return isinstance(value, int) and -(2**63) <= value < 2**63
    if isinstance(value, int):
        return abs(value) < 2**63
    return isinstance(value, float) and math.isfinite(value)


def _kind(dtype: np.dtype) -> str:
    return {"O": "strings", "b": "true or false", "i": "whole numbers"}.get(dtype.kind, "numbers")
