"""The items an index answers with."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Names of the graph's own outputs; a metadata column becomes an output too.
RESERVED = ("ids", "scores", "indices", "embeddings")


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """Embeddings with ids and metadata columns.

    Args:
        embeddings: `(n, d)` finite floats, kept as float32.
        ids: `n` unique strings.
        metadata: Columns of `n` values each: strings, integers, booleans or finite floats. A column `label` holds
            class names.
    """

    embeddings: np.ndarray
    ids: tuple[str, ...]
    metadata: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        embeddings = np.asarray(self.embeddings)
        if embeddings.ndim != 2 or embeddings.shape[1] < 1 or embeddings.dtype.kind not in "fiu":
            raise ValueError(
                "`embeddings` must be numbers of shape (items, dimensions). "
                f"Received: shape {embeddings.shape}, dtype {embeddings.dtype}"
            )
        with np.errstate(over="ignore"):
            embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
        ids = check_ids(self.ids, len(embeddings))
        # Index engines may abort the process on a NaN. In blocks: a mask of the whole gallery would be a quarter of
        # it again.
        for start in range(0, len(embeddings), 65536):
            bad = ~np.isfinite(embeddings[start : start + 65536]).all(axis=1)
            if bad.any():
                row = start + int(np.flatnonzero(bad)[0])
                raise ValueError(
                    "Gallery embeddings must be finite (as float32). Received NaN or infinity first in "
                    f"row {row} (id {ids[row]!r}). Remove such items or repair the encoder"
                )
        object.__setattr__(self, "embeddings", embeddings)
        object.__setattr__(self, "ids", ids)
        object.__setattr__(
            self,
            "metadata",
            {name: check_column(name, values, len(ids)) for name, values in dict(self.metadata).items()},
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.embeddings.shape[1]

    def save(self, folder: pathlib.Path) -> None:
        """Writes `embeddings.npy` and `items.json` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "embeddings.npy", self.embeddings)
        columns = {
            name: {"dtype": "str" if values.dtype == object else values.dtype.name, "values": values.tolist()}
            for name, values in self.metadata.items()
        }
        with open(folder / "items.json", "w", encoding="utf-8") as file:
            json.dump({"ids": self.ids, "metadata": columns}, file, ensure_ascii=False, allow_nan=False)

    @classmethod
    def open(cls, folder: pathlib.Path) -> "Gallery":
        """Reads what `save` wrote; the embeddings stay on disk until used."""
        ids, metadata = read_items(folder)
        gallery = object.__new__(cls)
        object.__setattr__(gallery, "embeddings", np.load(folder / "embeddings.npy", mmap_mode="r"))
        object.__setattr__(gallery, "ids", ids)
        object.__setattr__(gallery, "metadata", metadata)
        return gallery

    @classmethod
    def from_npz(cls, path: str | pathlib.Path) -> "Gallery":
        """Reads `embeddings` `(n, d)`, `ids` `(n,)` and any further `(n,)` arrays as metadata columns.

        A run's `test_embeddings.npz` is read too: its `labels` and `class_names` become the column `label`.
        """
        arrays = read_npz(pathlib.Path(path), ("embeddings", "ids"))
        embeddings = arrays.pop("embeddings")
        ids = [str(name) for name in arrays.pop("ids").tolist()]
        if "class_names" in arrays and "labels" in arrays and "label" not in arrays:
            names, labels = arrays.pop("class_names"), arrays.pop("labels")
            if labels.dtype.kind not in "iu" or (labels.size and not 0 <= labels.min() <= labels.max() < len(names)):
                raise ValueError(
                    f"{path}: labels must number class_names, from 0 to {len(names) - 1}. Write the file again"
                )
            arrays["label"] = names[labels]
        try:
            return cls(embeddings, tuple(ids), arrays)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """`(m,)` row numbers of items by their ids.

        Raises:
            ValueError: There is no item of an id.
        """
        wanted = dict.fromkeys(ids, -1)
        for row, name in enumerate(self.ids):
            if name in wanted:
                wanted[name] = row
        missing = [name for name, row in wanted.items() if row < 0]
        if missing:
            raise ValueError(f"The gallery of {len(self)} items has none of the id {missing[0]!r}")
        return np.array([wanted[name] for name in ids], np.int64)

    def take(self, rows: Sequence[int] | np.ndarray) -> "Gallery":
        """The given rows."""
        rows = np.asarray(rows, dtype=np.int64)
        return Gallery(
            self.embeddings[rows],
            tuple(self.ids[row] for row in rows),
            {name: values[rows] for name, values in self.metadata.items()},
        )


def check_ids(ids: Any, count: int) -> tuple[str, ...]:
    """`ids` as a tuple, if they are `count` unique non-empty strings."""
    ids = tuple(ids)
    if len(ids) != count:
        raise ValueError(f"Embeddings and ids must be equally many. Received: {count} embeddings, {len(ids)} ids")
    seen: set[str] = set()
    for name in ids:
        if not isinstance(name, str) or not name:
            raise ValueError(f"Ids must be non-empty strings. Received: {name!r}")
        if name in seen:
            raise ValueError(f"Ids must be unique. Received twice: {name!r}")
        check_text("An id", name)
        seen.add(name)
    return tuple(str(name) for name in ids)


def check_text(what: str, text: str) -> None:
    """Raises a ValueError where a text has no UTF-8 form, as names of files with other bytes have none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{what} must be text that UTF-8 can write. Rename it. Received: {text!r}") from None


def check_column(name: str, values: Any, count: int) -> np.ndarray:
    """A metadata column as `(count,)` strings (dtype object), int64, bool or float64."""
    if not name or not name.isidentifier() or name in RESERVED or name.endswith("_bytes"):
        raise ValueError(
            f"A metadata column needs a name of letters, digits and underscores other than {', '.join(RESERVED)} "
            f"and does not end in _bytes. Received: {name!r}"
        )
    column = np.asarray(values)
    if column.shape != (count,):
        raise ValueError(f"Metadata column {name!r} must have shape ({count},). Received: {column.shape}")
    if column.dtype.kind in "UO":
        texts = column.tolist()
        wrong = [text for text in texts if not isinstance(text, str)]
        if wrong:
            raise ValueError(f"Metadata column {name!r} mixes strings with other values. Received: {wrong[0]!r}")
        for text in texts:
            check_text(f"Metadata column {name!r}", text)
        column = np.empty(count, dtype=object)
        column[:] = texts
        return column
    if column.dtype.kind == "b":
        return column
    if column.dtype.kind in "iu":
        return column.astype(np.int64)
    if column.dtype.kind == "f":
        if not np.isfinite(column).all():
            raise ValueError(
                f"Metadata column {name!r} must be finite: JSON has no NaN. Leave the column out or fill it"
            )
        return column.astype(np.float64)
    raise ValueError(
        f"Metadata column {name!r} must hold strings, integers, booleans or floats. Received: dtype {column.dtype}"
    )


def read_npz(path: pathlib.Path, needed: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, those named in `needed` among them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or an array is missing.
    """
    from keras_dml.data import reading

    specs = {
        "embeddings": reading.ArraySpec("fiu", (None, None), "(n, d) numbers", optional="embeddings" not in needed),
        "ids": reading.ArraySpec("iuU", (None,), "(n,) text", optional="ids" not in needed),
    }
    arrays = reading.read_npz(path, specs, "arrays embeddings (n, d), ids (n,) and metadata columns (n,)", others=True)
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ValueError(f"{path}: an array `{missing[0]}` is missing. Received: {', '.join(arrays) or 'none'}")
    return arrays


def read_items(folder: pathlib.Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Ids and metadata columns that `Gallery.save` wrote."""
    with open(folder / "items.json", encoding="utf-8") as file:
        items: Mapping[str, Any] = json.load(file)
    metadata = {}
    for name, column in items["metadata"].items():
        values: np.ndarray = np.empty(
            len(column["values"]), dtype=object if column["dtype"] == "str" else column["dtype"]
        )
        values[:] = column["values"]
        metadata[name] = values
    return tuple(items["ids"]), metadata
