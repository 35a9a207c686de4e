"""UnED: eight data sets of cars, products, clothes, species, artworks, landmarks, dishes and packages as one.

Queries of one of them are searched in the merged gallery of all. A query can belong to several classes, and each domain
counts alike, so it is no `Benchmark`: `load_uned` loads it, and `keras_dml.evaluation.uned_scores` measures on it.
"""

import dataclasses
import json
import pathlib
from typing import Any, Final

import numpy as np

from keras_dml.data import folders
from keras_dml.data.errors import DataError
from keras_dml.data.split import Split
from keras_dml.utils.suggestions import unknown_name

INFO_FILES = "https://cmp.felk.cvut.cz/univ_emb/info_files.zip"


@dataclasses.dataclass(frozen=True)
class Domain:
    """A part of UnED.

    Args:
        train: Training images.
        classes: Training classes.
        val: Validation images.
        test: Test queries.
        index: Images of the test gallery; None where the queries are the gallery.
        val_index: The file of the validation gallery; None where the queries are the gallery.
    """

    train: int
    classes: int
    val: int
    test: int
    index: int | None = None
    val_index: str | None = None


DOMAINS: Final = {
    "cars": Domain(6346, 78, 1708, 8131),
    "sop": Domain(48942, 9054, 10609, 60502),
    "inshop": Domain(20897, 3198, 4982, 14218, 12612),
    "inat": Domain(273929, 4552, 51917, 136093),
    "met": Domain(397121, 224408, 129, 1003, 397121, "small_index"),
    "gldv2": Domain(1422914, 73182, 157556, 1129, 761757),
    "food2k": Domain(472349, 900, 49323, 9979),
    "rp2k": Domain(188724, 1074, 17185, 10931),
}
"""The eight parts, with the counts that the authors' code states (`dataset_infos.py`)."""


@dataclasses.dataclass(frozen=True, eq=False)
class UnEDBenchmark:
    """Queries of several domains and one gallery for all of them.

    Args:
        queries: The query images; labels are the domains'.
        gallery: The merged gallery; labels are classes. A query that is in it has the same id there.
        query_classes: For each query, the classes of the gallery that are right: `(k,)` int64, k at least 1.
        domains: Names of the domains, in the order of the queries' labels.
        subset: Whether the data may be other than the whole benchmark.
    """

    queries: Split
    gallery: Split
    query_classes: tuple[np.ndarray, ...]
    domains: tuple[str, ...]
    subset: bool = False


def load_uned(
    data_dir: str | pathlib.Path,
    part: str = "test",
    domains: tuple[str, ...] = tuple(DOMAINS),
    subset: bool = False,
) -> UnEDBenchmark:
    """Loads UnED's queries and merged gallery (Ypsilantis et al., ICCV 2023).

    Args:
        data_dir: Folder with the authors' `info_files/DOMAIN/PART.json` and the images below `images/`.
        part: "test", the benchmark, or "val".
        domains: Of which data sets; fewer than all make a smaller gallery.
        subset: Whether to accept other numbers of images.

    Raises:
        DataError: A ValueError: files are missing, damaged, or not the whole benchmark; the text says what to do.
    """
    if part not in ("test", "val"):
        raise ValueError(f'`part` must be "test" or "val". Received: part={part!r}')
    root = folders.existing_folder(pathlib.Path(data_dir).expanduser(), "uned", _layout())
    queries, gallery = _Side(root), _Side(root)
    for name in domains:
        if name not in DOMAINS:
            raise ValueError(unknown_name("domain of UnED", name, DOMAINS))
        domain = DOMAINS[name]
        own = domain.index is None if part == "test" else domain.val_index is None
        count = domain.test if part == "test" else domain.val
        queries.add(name, part, None if subset else count)
        index = part if own else ("index" if part == "test" else str(domain.val_index))
        sizes = {"index": domain.index, part: count}
        gallery.add(name, index, None if subset else sizes.get(index))
    for image, classes in zip(gallery.images, gallery.classes, strict=True):
        if len(classes) != 1:
            raise DataError(f"An image of the gallery must have one class. Received: {image} with {classes}")
    names = sorted({classes[0] for classes in gallery.classes})
    numbers = {name: number for number, name in enumerate(names)}
    known = [np.array([numbers[one] for one in classes if one in numbers], np.int64) for classes in queries.classes]
    lost = next((row for row, found in enumerate(known) if not len(found)), None)
    if lost is not None:
        raise DataError(f"The gallery has no image of the class of the query {queries.images[lost]}")
    return UnEDBenchmark(
        queries.split([domains.index(name) for name in queries.domains], domains),
        gallery.split([numbers[classes[0]] for classes in gallery.classes], names),
        tuple(known),
        tuple(domains),
        subset,
    )


class _Side:
    """What the info files list, read one after another."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.images: list[str] = []
        self.classes: list[list[str]] = []
        self.domains: list[str] = []

    def add(self, domain: str, part: str, count: int | None) -> None:
        path = self.root / "info_files" / domain / f"{part}.json"
        if not path.is_file():
            raise DataError(f"{path} is missing. Expected:\n{_layout()}")
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}. Unpack it anew from {INFO_FILES}") from error
        if not isinstance(entries, list) or not entries:
            raise DataError(f'{path} must be a list of {{"path": ..., "class_id": ...}}')
        if count is not None and len(entries) != count:
            raise DataError(
                f"{path} lists {len(entries)} images instead of {count}. Numbers measured on other data cannot be "
                "compared with published ones. To use them anyway, ask for a subset: subset=True"
            )
        for number, entry in enumerate(entries):
            image, classes = _entry(path, number, entry)
            self.images.append(image)
            self.classes.append([f"{domain}/{one}" for one in classes])
            self.domains.append(domain)

    def split(self, labels: list[int], names: list[str] | tuple[str, ...]) -> Split:
        files = [self.root / "images" / image for image in self.images]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise DataError(f"{len(missing)} of {len(files)} images are missing: {missing[0]}. Expected:\n{_layout()}")
        return Split(files, labels, names, self.images)


def _entry(path: pathlib.Path, number: int, entry: Any) -> tuple[str, list[int]]:
    image = entry.get("path") if isinstance(entry, dict) else None
    classes = entry.get("class_id") if isinstance(entry, dict) else None
    classes = classes if isinstance(classes, list) else [classes]
    inside = isinstance(image, str) and ".." not in pathlib.PurePath(image).parts and not image.startswith("/")
    if not inside or not classes or any(isinstance(one, bool) or not isinstance(one, int) for one in classes):
        raise DataError(
            f'{path}, entry {number}: expected "path" (below images/) and "class_id" (an integer or several). '
            f"Received: {entry!r}"
        )
    return str(image), classes


def _layout() -> str:
    return (
        f"  info_files/DOMAIN/test.json, from {INFO_FILES}; inshop, met and gldv2 have an index.json too\n"
        "  images/...: the images of each data set, in the folders that the authors' README shows\n"
        f"  Domains: {', '.join(DOMAINS)}\n"
    )
