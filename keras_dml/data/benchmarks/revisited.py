"""Revisited Oxford and Paris: 70 cropped queries each, against photographs of 11 landmarks and of much else.

They have no training side and no classes, but lists of what is easy, hard and not to be judged for each query. So they
are no `Benchmark`: `load_revisited` loads them, and `keras_dml.evaluation.revisited_map` measures on them.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from keras_dml.data import folders
from keras_dml.data.benchmark import Archive
from keras_dml.data.errors import DataError
from keras_dml.data.plain_pickle import read_plain_pickle
from keras_dml.data.split import Split
from keras_dml.utils.suggestions import unknown_name

QUERIES = 70
GALLERY: Final = {"roxford5k": 4993, "rparis6k": 6322}
"""Images of the gallery."""
LEVELS = ("easy", "hard", "junk")
ARCHIVES: Final = {
    "roxford5k": (
        Archive("oxbuild_images.tgz", "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/oxbuild_images.tgz"),
    ),
    "rparis6k": tuple(
        Archive(f"paris_{part}.tgz", f"https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/paris_{part}.tgz")
        for part in (1, 2)
    ),
}
ANNOTATIONS = "http://cmp.felk.cvut.cz/revisitop/data/datasets"
UNLABELED = ("unlabeled",)


@dataclasses.dataclass(frozen=True, eq=False)
class RevisitedBenchmark:
    """Queries, a gallery, and which images of it are right for each query.

    Args:
        name: "roxford5k" or "rparis6k".
        queries: The query images, cut to their boxes. Labels mean nothing.
        gallery: The images that are searched; no query is among them. Labels mean nothing.
        truth: For each query, rows of the gallery under "easy", "hard" and "junk": `(k,)` int64.
        subset: Whether the data may be other than the whole benchmark.
    """

    name: str
    queries: Split
    gallery: Split
    truth: tuple[Mapping[str, np.ndarray], ...]
    subset: bool = False


def load_revisited(name: str, data_dir: str | pathlib.Path, subset: bool = False) -> RevisitedBenchmark:
    """Loads Revisited Oxford or Paris (Radenovic et al., CVPR 2018).

    Args:
        name: "roxford5k" (70 queries, 4,993 images) or "rparis6k" (70 queries, 6,322 images).
        data_dir: Folder with `gnd_NAME.pkl` and the images, in `jpg/`, `images/` or itself; or a folder with one called
            `NAME`. The pickle is read without running anything in it.
        subset: Whether to accept other numbers of queries and images.

    Raises:
        DataError: A ValueError: the data are missing, damaged, or not the whole benchmark; the text says what to do.
    """
    if name not in GALLERY:
        raise ValueError(unknown_name("revisited benchmark", name, GALLERY))
    layout = _layout(name)
    root = folders.existing_folder(pathlib.Path(data_dir).expanduser(), name, layout)
    path = folders.first_existing(root, (f"{folder}gnd_{name}.pkl" for folder in ("", f"{name}/")))
    if path is None:
        raise DataError(f"No gnd_{name}.pkl in {root} or {root / name}. Expected:\n{layout}")
    content = read_plain_pickle(path)
    gallery_names, query_names = (_names(path, content, key) for key in ("imlist", "qimlist"))
    entries = content.get("gnd")
    if not isinstance(entries, list) or len(entries) != len(query_names):
        raise DataError(f"{path}: 'gnd' must be a list of {len(query_names)} entries, one for each of 'qimlist'")
    if not subset and (len(query_names), len(gallery_names)) != (QUERIES, GALLERY[name]):
        raise DataError(
            f"The data are not the whole benchmark {name!r}: {len(query_names)} queries instead of {QUERIES} and "
            f"{len(gallery_names)} images instead of {GALLERY[name]}. Numbers measured on other data cannot be "
            "compared with published ones. To use them anyway, ask for a subset: subset=True"
        )
    boxes = np.array([_box(path, query, entry) for query, entry in zip(query_names, entries, strict=True)], np.float32)
    truth = tuple(
        {level: _rows(path, query, entry, level, len(gallery_names)) for level in LEVELS}
        for query, entry in zip(query_names, entries, strict=True)
    )
    return RevisitedBenchmark(
        name,
        _split(path.parent, query_names, layout, boxes),
        _split(path.parent, gallery_names, layout),
        truth,
        subset,
    )


def _layout(name: str) -> str:
    archives = "".join(f"  {archive}\n" for archive in ARCHIVES[name])
    return (
        f"  [{name}/]gnd_{name}.pkl, from {ANNOTATIONS}/{name}\n"
        f"  [{name}/]jpg/*.jpg (or images/*.jpg, or beside the pickle), all in one folder, from\n{archives}"
    )


def _names(path: pathlib.Path, content: Any, key: str) -> list[str]:
    names = content.get(key) if isinstance(content, dict) else None
    if not isinstance(names, list) or not names or any(not isinstance(name, str) for name in names):
        raise DataError(f"{path} must hold a dictionary with {key!r}, a list of names of images. Is it another file?")
    wrong = next((name for name in names if name != pathlib.PurePath(name).name), None)
    if wrong is not None:
        raise DataError(f"{path}: {key!r} must name images by file name alone. Received: {wrong!r}")
    return names


def _box(path: pathlib.Path, query: str, entry: Any) -> tuple[float, float, float, float]:
    """`ymin, xmin, ymax, xmax` in pixels; the file has left, top, right and bottom."""
    given = np.asarray(entry.get("bbx") if isinstance(entry, dict) else None)
    if given.shape != (4,) or given.dtype.kind not in "iuf" or not np.isfinite(given).all():
        raise DataError(f"{path}: the query {query!r} must have four numbers as its box, 'bbx'. Received: {given}")
    left, top, right, bottom = given.tolist()
    if not (left < right and top < bottom):
        raise DataError(f"{path}: the box of the query {query!r} is empty: 'bbx' is {given.tolist()}")
    return top, left, bottom, right


def _rows(path: pathlib.Path, query: str, entry: dict[str, Any], level: str, count: int) -> np.ndarray:
    given = np.asarray(entry.get(level, ()))
    rows = given.astype(np.int64) if given.size == 0 or given.dtype.kind in "iu" else None
    if rows is None or rows.ndim != 1 or np.any(rows < 0) or np.any(rows >= count):
        raise DataError(
            f"{path}: {level!r} of the query {query!r} must be rows of the gallery, from 0 to {count - 1}. "
            f"Received: {given}"
        )
    return rows


def _split(base: pathlib.Path, names: list[str], layout: str, boxes: np.ndarray | None = None) -> Split:
    folder = next((base / at for at in ("jpg", "images") if (base / at).is_dir()), base)
    files = [folder / f"{name}.jpg" for name in names]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(files)} images are missing: {missing[0]}. Expected:\n{layout}")
    return folders.split_of_files(base, files, [0] * len(files), UNLABELED, boxes)
