"""Stanford Online Products: 22,634 products sold online, about five photographs each."""

import pathlib

import numpy as np

from keras_dml.data import folders, reading, tfrecords
from keras_dml.data.benchmark import Archive, Benchmark, Protocol
from keras_dml.data.errors import DataError
from keras_dml.data.loading import LoadOptions, assemble, register_benchmark
from keras_dml.data.sources import FileImages
from keras_dml.data.split import Split

PROTOCOL = Protocol(train_classes=11_318, train_images=59_551, test_classes=11_316, test_images=60_502)
ARCHIVES = (
    Archive(
        "Stanford_Online_Products.zip",
        "ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
        3_083_860_082,
        "b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48",
    ),
)
LAYOUT = """\
  [Stanford_Online_Products/]Ebay_train.txt, Ebay_test.txt
  [Stanford_Online_Products/]bicycle_final/*.JPG ... toaster_final/*.JPG
or without the lists a folder for each product: [Stanford_Online_Products/]train/PRODUCT/*.JPG, test/PRODUCT/*.JPG"""

SIDES = ("train", "test")
PROTOCOL_CLASSES = 22_634
FIELDS = ("image_id", "class_id", "super_class_id", "path")


@register_benchmark("sop")
def load_sop(options: LoadOptions) -> Benchmark:
    """The official lists: 11,318 products for training (59,551 images), 11,316 others for test (60,502)."""
    root = options.data_dir
    bases = [] if root is None else [root, root / "Stanford_Online_Products"]
    base = next((base for base in bases if (base / "Ebay_train.txt").is_file()), None)
    sorted_base = next((base for base in bases if all((base / side).is_dir() for side in SIDES)), None)
    if base is not None:
        train, test = (_from_list(base, base / f"Ebay_{side}.txt") for side in SIDES)
    elif sorted_base is not None:
        train, test = (folders.split_of_classes(sorted_base, folders.class_folders(sorted_base / s)) for s in SIDES)
    else:
        folder = tfrecords.prepared("sop", options, "stanford_online_products", ARCHIVES, LAYOUT)
        train, test = (_from_records(folder, side) for side in SIDES)
    return assemble("sop", options, PROTOCOL, train, test)


def _from_list(base: pathlib.Path, path: pathlib.Path) -> Split:
    if not path.is_file():
        raise DataError(f"{path} is missing. Expected:\n{LAYOUT}")
    rows: list[tuple[int, int, str]] = []
    seen: dict[str, int] = {}
    paths: dict[str, int] = {}
    for line in reading.lines(path):
        # Above the list is a line with these names; without it, the first image is one like the others.
        if line.number == 1 and line.text.split() == list(FIELDS):
            continue
        image, product, _, name = line.fields(FIELDS)
        number = line.whole_number(image, "image_id", 1, 10**9)
        reading.once(seen, str(number), line, "image_id")
        reading.once(paths, name, line, "path")
        rows.append((line.whole_number(product, "class_id", 1, PROTOCOL_CLASSES), number, name))
    rows.sort()
    files = [base / name for _, _, name in rows]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(files)} images that {path} lists are missing: {missing[0]}")
    return _numbered(
        FileImages(files), np.array([product for product, _, _ in rows], int), [name for _, _, name in rows]
    )


def _from_records(folder: pathlib.Path, side: str) -> Split:
    table = tfrecords.read_table(folder, (side,), ("class_id",))
    labels = table.labels("class_id", PROTOCOL_CLASSES)
    order = np.argsort(labels, kind="stable")
    # The records keep no file names: their order is the images' identity.
    ids = [f"{side}/{row:05d}" for row in order]
    return _numbered(table.images.subset(order), labels[order] + 1, ids)


def _numbered(images: FileImages | tfrecords.PackedImages, numbers: np.ndarray, ids: list[str]) -> Split:
    """A split with classes named by their official number, counted from 1."""
    kept, labels = np.unique(numbers, return_inverse=True)
    return Split(images, labels, [f"{number:05d}" for number in kept], ids)
