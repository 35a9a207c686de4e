"""CUB-200-2011: 200 bird species."""

import pathlib

import numpy as np

from keras_dml.data import folders, reading, tfrecords
from keras_dml.data.benchmark import Archive, Benchmark, Protocol
from keras_dml.data.errors import DataError
from keras_dml.data.loading import LoadOptions, assemble, register_benchmark
from keras_dml.data.sources import FileImages
from keras_dml.data.split import Split, by_class_then_name, split_by_class

PROTOCOL = Protocol(train_classes=100, train_images=5864, test_classes=100, test_images=5924)
CLASSES = 200
TRAIN_CLASSES = 100
ARCHIVES = (
    Archive(
        "CUB_200_2011.tgz",
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
        1_150_585_339,
        "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
    ),
)
LAYOUT = """\
  [CUB_200_2011/]images.txt, image_class_labels.txt, bounding_boxes.txt (for the cropped benchmark)
  [CUB_200_2011/]images/001.Black_footed_Albatross/*.jpg ... 200.Common_Yellowthroat/*.jpg
or the class folders 001.* ... 200.* alone, in the folder itself or in images/
or class folders without numbers (Black_footed_Albatross/, in any spelling of blanks and punctuation) there, with the
  archive's classes.txt in the folder or above: the names alone do not tell the official order"""


@register_benchmark("cub200")
def load_cub200(options: LoadOptions) -> Benchmark:
    """The first 100 species for training (5,864 images), the last 100 for test (5,924)."""
    return _load("cub200", options, cropped=False)


@register_benchmark("cub200_cropped")
def load_cub200_cropped(options: LoadOptions) -> Benchmark:
    """`cub200` with every image cut to the bird's box."""
    return _load("cub200_cropped", options, cropped=True)


def _load(name: str, options: LoadOptions, cropped: bool) -> Benchmark:
    root = _root(options.data_dir)
    if root is not None:
        everything = _from_lists(root, cropped) if (root / "images.txt").is_file() else _from_folders(root, cropped)
    else:
        everything = _from_records(tfrecords.prepared(name, options, "caltech_birds2011", ARCHIVES, LAYOUT), cropped)
    train, test = split_by_class(everything, TRAIN_CLASSES)
    return assemble(name, options, PROTOCOL, train, test)


def _root(data_dir: pathlib.Path | None) -> pathlib.Path | None:
    if data_dir is None or not data_dir.is_dir():
        return None
    for root in (data_dir, data_dir / "CUB_200_2011", data_dir / "images", data_dir / "CUB_200_2011" / "images"):
        if (root / "images.txt").is_file():
            return root
        # Without the lists the class folders are enough.
        if root.is_dir() and (_numbered(root) or _from_names(root) is not None):
            return root
    return None


def _from_lists(root: pathlib.Path, cropped: bool) -> Split:
    names = _table(root / "images.txt", ("number", "path"))
    files_seen: dict[str, int] = {}
    for line, (path,) in names.values():
        reading.once(files_seen, path, line, "image")
    listed_labels = _table(root / "image_class_labels.txt", ("number", "class"))
    boxes = _table(root / "bounding_boxes.txt", ("number", "x", "y", "width", "height")) if cropped else {}
    needed = {"image_class_labels.txt": listed_labels, **({"bounding_boxes.txt": boxes} if cropped else {})}
    for file, listed in needed.items():
        unlisted = [number for number in names if number not in listed]
        if unlisted:
            raise DataError(
                f"{root / file} lacks {len(unlisted)} of the {len(names)} images in images.txt. The first: image "
                f"{unlisted[0]}, {names[unlisted[0]][1][0]}. Unpack the archive again"
            )
    labels = {
        number: line.whole_number(label, "the class", 1, CLASSES) for number, (line, (label,)) in listed_labels.items()
    }
    numbers = sorted(names, key=lambda number: (labels[number], names[number][1][0]))
    ids = [names[number][1][0] for number in numbers]
    files = [root / "images" / name for name in ids]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(files)} images that {root}/images.txt lists are missing: {missing[0]}")
    class_names = [""] * CLASSES
    for number, name in zip(numbers, ids, strict=True):
        class_names[labels[number] - 1] = name.split("/")[0]
    corners = None
    if cropped:
        corners = np.array([_box(*boxes[number]) for number in numbers], np.float32).reshape(-1, 4)
        folders.check_boxes(root / "bounding_boxes.txt", files, corners)
    return Split(FileImages(files, corners), [labels[number] - 1 for number in numbers], class_names, ids)


def _box(line: reading.Line, values: list[str]) -> tuple[float, float, float, float]:
    """`ymin, xmin, ymax, xmax`; the list has x, y, width and height."""
    left, top, width, height = (
        line.number_of(value, name) for value, name in zip(values, ("x", "y", "width", "height"), strict=True)
    )
    if left < 0 or top < 0 or width <= 0 or height <= 0:
        raise line.fault("a box with an area, inside the image: x and y not negative, width and height positive")
    return top, left, top + height, left + width


def _from_folders(root: pathlib.Path, cropped: bool) -> Split:
    if cropped:
        raise DataError(
            f"{root} has no images.txt and bounding_boxes.txt, which the cropped benchmark needs. Expected:\n{LAYOUT}"
        )
    split = folders.split_of_numbered_classes(root, CLASSES) if _numbered(root) else _from_names(root)
    assert split is not None
    return split


def _numbered(root: pathlib.Path) -> bool:
    return any(folders.number_of(folder.name) is not None for folder in folders.subfolders(root))


def _from_names(root: pathlib.Path) -> Split | None:
    """Class folders without numbers, which classes.txt gives: `number number.name` a line."""
    path = folders.first_existing(root, ("classes.txt", "../classes.txt"))
    if path is None:
        return None
    listed = _table(path, ("number", "name"))
    if listed.keys() != set(range(1, CLASSES + 1)):
        raise DataError(f"{path} should number the classes 1 to {CLASSES}. Received: {len(listed)} lines")
    names = [listed[number][1][0].partition(".")[2] for number in range(1, CLASSES + 1)]
    return folders.split_of_named_classes(root, names)


def _from_records(folder: pathlib.Path, cropped: bool) -> Split:
    # Its training and test splits share the classes: both are needed, to be split anew by class.
    table = tfrecords.read_table(folder, ("train", "test"), ("label", "image/filename", "bbox"))
    ids = ["/".join(name.split("/")[-2:]) for name in table.texts("image/filename")]
    labels = table.labels(classes=CLASSES)
    class_names = [f"{label + 1:03d}" for label in range(CLASSES)]
    for label, name in zip(labels, ids, strict=True):
        class_names[label] = name.split("/")[0]
    if not cropped:
        table.images.boxes = None
    order = by_class_then_name(labels, ids)
    return Split(table.images, labels, class_names, ids).subset(order, renumber=False)


def _table(path: pathlib.Path, fields: tuple[str, ...]) -> dict[int, tuple[reading.Line, list[str]]]:
    """Lines of `number value ...` by number, with their values.

    Raises:
        DataError: A line has other fields, or a number of another line.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing. Expected:\n{LAYOUT}")
    table: dict[int, tuple[reading.Line, list[str]]] = {}
    seen: dict[str, int] = {}
    for line in reading.lines(path):
        text, *values = line.fields(fields)
        number = line.whole_number(text, "the number", 1, 10**9)
        reading.once(seen, str(number), line, "number")
        table[number] = line, values
    return table
