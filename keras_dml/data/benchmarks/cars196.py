"""CARS196 (Stanford Cars): 196 models of cars."""

import pathlib
from typing import Any

import numpy as np

from keras_dml.data import folders, reading, tfrecords
from keras_dml.data.benchmark import Archive, Benchmark, Protocol
from keras_dml.data.errors import DataError
from keras_dml.data.loading import LoadOptions, assemble, register_benchmark
from keras_dml.data.sources import FileImages
from keras_dml.data.split import Split, by_class_then_name, split_by_class
from keras_dml.utils.requirements import tensorflow_module

PROTOCOL = Protocol(train_classes=98, train_images=8054, test_classes=98, test_images=8131)
CLASSES = 196
TRAIN_CLASSES = 98
ARCHIVES = (
    Archive(
        "cars_train.tgz",
        "http://ai.stanford.edu/~jkrause/car196/cars_train.tgz",
        979_269_282,
        "512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288",
    ),
    Archive(
        "cars_test.tgz",
        "http://ai.stanford.edu/~jkrause/car196/cars_test.tgz",
        977_350_468,
        "bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243",
    ),
    Archive(
        "car_devkit.tgz",
        "https://ai.stanford.edu/~jkrause/cars/car_devkit.tgz",
        330_960,
        "b97deb463af7d58b6bfaa18b2a4de9829f0f79e8ce663dfa9261bf7810e9accd",
    ),
    Archive(
        "cars_test_annos_withlabels.mat",
        "http://ai.stanford.edu/~jkrause/car196/cars_test_annos_withlabels.mat",
        185_758,
        "790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05",
    ),
)
LAYOUT = """\
  cars_train/*.jpg, cars_test/*.jpg, devkit/cars_train_annos.mat, devkit/cars_meta.mat
  cars_test_annos_withlabels.mat (there or in devkit/)
or the older single archive: car_ims/*.jpg, cars_annos.mat
or class folders 001.* ... 196.* in the official order, in the folder itself or in images/
or class folders with the official names (AM General Hummer SUV 2000/, in any spelling of blanks and punctuation) there,
  or divided between train/ and test/"""
BOX_FIELDS = ("bbox_y1", "bbox_x1", "bbox_y2", "bbox_x2")
AGAIN = "Get the original file"


@register_benchmark("cars196")
def load_cars196(options: LoadOptions) -> Benchmark:
    """The first 98 models for training (8,054 images), the last 98 for test (8,131)."""
    return _load("cars196", options, cropped=False)


@register_benchmark("cars196_cropped")
def load_cars196_cropped(options: LoadOptions) -> Benchmark:
    """`cars196` with every image cut to the car's box."""
    return _load("cars196_cropped", options, cropped=True)


def _load(name: str, options: LoadOptions, cropped: bool) -> Benchmark:
    everything = None if options.data_dir is None else _from_disk(options.data_dir, cropped)
    if everything is None:
        everything = _from_records(tfrecords.prepared(name, options, "cars196", ARCHIVES, LAYOUT), cropped)
    train, test = split_by_class(everything, TRAIN_CLASSES)
    return assemble(name, options, PROTOCOL, train, test)


def _from_disk(root: pathlib.Path, cropped: bool) -> Split | None:
    for base in (root, root / "stanford_cars", root / "cars196"):
        if (base / "cars_annos.mat").is_file():
            return _from_lists(base, [(base / "cars_annos.mat", base, "")], cropped)
        train = folders.first_existing(base, ("devkit/cars_train_annos.mat", "cars_train_annos.mat"))
        if train is not None:
            test = folders.first_existing(
                base, ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat")
            )
            if test is None:
                raise DataError(
                    f"{base} lacks cars_test_annos_withlabels.mat, the labels of cars_test. Expected:\n{LAYOUT}"
                )
            lists = [(train, base / "cars_train", "train/"), (test, base / "cars_test", "test/")]
            return _from_lists(base, lists, cropped)
    bases = [base for base in (root, root / "images") if base.is_dir() and folders.subfolders(base)]
    # Numbers first: the list of names belongs to TensorFlow Datasets, which may be missing.
    for base in sorted(bases, key=lambda base: not _numbered(base)):
        split = _from_class_folders(base)
        if split is not None and cropped:
            raise DataError(
                f"{base} holds class folders; the cropped benchmark needs boxes. Expected:\n{LAYOUT}\n"
                "If the images are cut to the box already, load them as 'cars196'"
            )
        if split is not None:
            return split
    return None


def _numbered(base: pathlib.Path) -> bool:
    return any(folders.number_of(folder.name) is not None for folder in folders.subfolders(base))


def _from_class_folders(base: pathlib.Path) -> Split | None:
    if _numbered(base):
        return folders.split_of_numbered_classes(base, CLASSES)
    module = "tensorflow_datasets.image_classification.cars196"
    cars196 = tensorflow_module(module, "CARS196 from class folders that bear the official names")
    # The list by which that library turns the official class numbers into names.
    return folders.split_of_named_classes(base, cars196._NAMES)


def _from_lists(base: pathlib.Path, lists: list[tuple[pathlib.Path, pathlib.Path, str]], cropped: bool) -> Split:
    labels: list[int] = []
    files: list[pathlib.Path] = []
    ids: list[str] = []
    boxes: list[tuple[float, ...]] = []
    for annotations, folder, prefix in lists:
        rows = reading.read_matlab(annotations, "annotations", LAYOUT)
        fields = rows.dtype.names or ()
        if not fields:
            raise DataError(f"{annotations}: annotations must be a structure. Get the original. Expected:\n{LAYOUT}")
        if "class" not in fields:
            raise DataError(f"{annotations} has no labels; cars_test_annos_withlabels.mat has. Expected:\n{LAYOUT}")
        name_field = "fname" if "fname" in fields else "relative_im_path"
        lacking = [field for field in (name_field, *BOX_FIELDS) if field not in fields]
        if lacking:
            raise DataError(f"{annotations}: annotations lacks {', '.join(lacking)}. Expected:\n{LAYOUT}")
        own = [
            _annotation(f"{annotations}, annotation {number}", row, name_field) for number, row in enumerate(rows, 1)
        ]
        names = [name for name, _, _ in own]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{annotations}: annotations names the image {twice} twice. Get the original")
        files.extend(folder / name for name in names)
        ids.extend(prefix + pathlib.PurePosixPath(name).stem if prefix else name for name in names)
        labels.extend(label for _, label, _ in own)
        own_boxes = np.array([box for _, _, box in own], np.float32).reshape(-1, 4)
        boxes.extend(map(tuple, own_boxes.tolist()))
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(files)} listed images are missing: {missing[0]}. Expected:\n{LAYOUT}")
    corners = np.array(boxes, np.float32).reshape(-1, 4) if cropped else None
    if corners is not None:
        folders.check_boxes(lists[0][0], files, corners)
    split = Split(FileImages(files, corners), labels, _class_names(base), ids)
    return split.subset(by_class_then_name(np.array(labels), ids), renumber=False)


def _annotation(where: str, row: Any, name_field: str) -> tuple[str, int, tuple[float, ...]]:
    """File name, label from 0 and box of an annotation."""
    name = row[name_field]
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: {name_field} must be the name of an image. Received: {str(name)[:80]!r}. {AGAIN}")
    label = np.asarray(row["class"])
    if label.shape != () or label.dtype.kind not in "iuf" or not 1 <= label <= CLASSES or label != int(label):
        raise DataError(f"{where}: class must be a number from 1 to {CLASSES}. Received: {str(label)[:80]}. {AGAIN}")
    sides = [np.asarray(row[field]) for field in BOX_FIELDS]
    if any(side.shape != () or side.dtype.kind not in "iuf" for side in sides):
        raise DataError(f"{where}: the box must be four numbers. Received: {str(sides)[:80]}. {AGAIN}")
    top, left, bottom, right = (float(side) for side in sides)
    if not (0 <= top < bottom < np.inf and 0 <= left < right < np.inf):
        raise DataError(
            f"{where}: the box (y1, x1, y2, x2) must have an area in the image. "
            f"Received: {[top, left, bottom, right]}. {AGAIN}"
        )
    return name, int(label) - 1, (top, left, bottom, right)


def _class_names(base: pathlib.Path) -> list[str]:
    path = folders.first_existing(base, ("devkit/cars_meta.mat", "cars_meta.mat", "cars_annos.mat"))
    if path is None:
        return [f"{number:03d}" for number in range(1, CLASSES + 1)]
    names = reading.read_matlab(path, "class_names", LAYOUT)
    if len(names) != CLASSES or any(not isinstance(name, str) for name in names.tolist()):
        raise DataError(f"{path}: class_names must be {CLASSES} texts. Received: {len(names)} values. {AGAIN}")
    return [str(name) for name in names]


def _from_records(folder: pathlib.Path, cropped: bool) -> Split:
    # Its training and test splits share the classes: both are needed, to be split anew by class.
    table = tfrecords.read_table(folder, ("train", "test"), ("label", "id", "bbox"))
    # Each split numbers its images from 1.
    ids = [f"{split}/{name}" for split, name in zip(table.splits, table.texts("id"), strict=True)]
    labels = table.labels()
    if not cropped:
        table.images.boxes = None
    order = by_class_then_name(labels, ids)
    return Split(table.images, labels, table.names(), ids).subset(order, renumber=False)
