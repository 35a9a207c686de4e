"""CARS196 (Stanford Cars): 196 models of cars."""

import pathlib
from typing import Any

import numpy as np

from keras_dml.data import folders, tfrecords
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
        for row in _matlab(annotations, "annotations"):
            fields = row.dtype.names
            if "class" not in fields:
                raise DataError(f"{annotations} has no labels; cars_test_annos_withlabels.mat has. Expected:\n{LAYOUT}")
            name = str(row["fname"] if "fname" in fields else row["relative_im_path"])
            labels.append(int(row["class"]) - 1)
            files.append(folder / name)
            ids.append(prefix + pathlib.PurePosixPath(name).stem if prefix else name)
            boxes.append(tuple(float(row[f"bbox_{side}"]) for side in ("y1", "x1", "y2", "x2")))
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(files)} listed images are missing: {missing[0]}. Expected:\n{LAYOUT}")
    meta = folders.first_existing(base, ("devkit/cars_meta.mat", "cars_meta.mat"))
    if meta is not None:
        names = [str(name) for name in _matlab(meta, "class_names")]
    elif (base / "cars_annos.mat").is_file():
        names = [str(name) for name in _matlab(base / "cars_annos.mat", "class_names")]
    else:
        names = [f"{number:03d}" for number in range(1, CLASSES + 1)]
    images = FileImages(files, np.array(boxes, np.float32) if cropped else None)
    return Split(images, labels, names, ids).subset(by_class_then_name(np.array(labels), ids), renumber=False)


def _matlab(path: pathlib.Path, name: str) -> Any:
    from scipy.io import loadmat

    return np.atleast_1d(loadmat(path, squeeze_me=True)[name])


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
