"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from keras_dml.data import folders, reading, tfrecords
from keras_dml.data.benchmark import Archive, Benchmark, Protocol
from keras_dml.data.errors import DataError, unreadable_images_named
from keras_dml.data.images.preprocessing import ImagePreprocessing
from keras_dml.data.loading import LoadOptions, assemble, register_benchmark
from keras_dml.data.sources import FileImages
from keras_dml.data.split import Split

PROTOCOL = Protocol(train_classes=964, train_images=19_280, test_classes=659, test_images=13_180)
PROTOCOL_IMAGES = 32_460
SIDE = 105
BITS = -(-SIDE * SIDE // 8)
ADDRESS = "https://github.com/brendenlake/omniglot/raw/master/python/"
ARCHIVES = (
    Archive(
        "images_background.zip",
        ADDRESS + "images_background.zip",
        9_464_212,
        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    ),
    Archive(
        "images_evaluation.zip",
        ADDRESS + "images_evaluation.zip",
        6_462_886,
        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    ),
)
LAYOUT = """\
  images_background/ALPHABET/characterNN/*.png, images_evaluation/ALPHABET/characterNN/*.png
  (in the folder itself, python/ or omniglot-py/)
or one .npz file, given as the data folder or lying in it, with
  images (n, 105, 105) uint8 in [0, 255], black ink on white
  labels (n,) integers, class_names (classes,) text, is_train (n,) bool
instead of `images`, `ink_bits` (n, 1379) uint8: each image's 105 x 105 pixels as bits, 1 for ink;
instead of `labels` and `is_train`, `label` and `is_background`"""


@register_benchmark("omniglot", finish=lambda benchmark: in_memory(benchmark))
def load_omniglot(options: LoadOptions) -> Benchmark:
    """The 964 characters of the background alphabets for training, the 659 of the evaluation alphabets for test.

    Black ink on white paper, the same from every source; `in_memory` then decodes what is encoded.
    """
    root = options.data_dir
    bases = [] if root is None else [root, root / "python", root / "omniglot-py"]
    base = next((base for base in bases if (base / "images_background").is_dir()), None)
    if base is not None:
        train, test = (_from_folders(base / f"images_{side}") for side in ("background", "evaluation"))
    # A folder with a data set may hold other .npz files.
    elif root is not None and tfrecords.find_prepared(root, "omniglot") is None and (archive := _archive(root)):
        train, test = _from_archive(archive)
    else:
        folder = tfrecords.prepared("omniglot", options, "omniglot", ARCHIVES, LAYOUT)
        train, test = (_from_records(folder, side) for side in ("train", "test"))
    return assemble("omniglot", options, PROTOCOL, train, test)


def _archive(root: pathlib.Path) -> pathlib.Path | None:
    if root.is_file() and root.suffix == ".npz":
        return root
    found = sorted(root.glob("*.npz")) if root.is_dir() else []
    if len(found) > 1:
        raise DataError(f"{root} holds {len(found)} .npz files. Give the path of the one with Omniglot")
    return found[0] if found else None


def _from_archive(path: pathlib.Path) -> tuple[Split, Split]:
    most = PROTOCOL_IMAGES
    saved = reading.read_npz(
        path,
        {
            "images": reading.ArraySpec(
                "u", (None, SIDE, SIDE), "(n, 105, 105) uint8 images", most * SIDE**2, optional=True
            ),
            "ink_bits": reading.ArraySpec("u", (None, BITS), "(n, 1379) uint8 bits", most * BITS, optional=True),
            **{
                name: reading.ArraySpec("iu", (None,), "(n,) whole numbers", most, True) for name in ("labels", "label")
            },
            **{
                name: reading.ArraySpec("biu", (None,), "(n,) booleans", most, True)
                for name in ("is_train", "is_background")
            },
            "class_names": reading.ArraySpec("U", (None,), "(classes,) text", most),
            "drawer": reading.ArraySpec("iu", (None,), "(n,) whole numbers", most, optional=True),
        },
        f"the fields of Omniglot:\n{LAYOUT}",
    )
    packed = "images" not in saved
    labels_name, train_name = ("labels", "is_train") if "labels" in saved else ("label", "is_background")
    missing = {labels_name, train_name} - saved.keys()
    if missing or (packed and "ink_bits" not in saved):
        raise DataError(f"{path} has the fields {', '.join(sorted(saved))}. Expected:\n{LAYOUT}")
    images = saved["ink_bits"] if packed else saved["images"]
    if images.dtype != np.uint8:
        raise DataError(f"{path}: images have the wrong type: {images.dtype}. Expected:\n{LAYOUT}")
    labels, train = saved[labels_name], saved[train_name].astype(bool)
    names = [_plain(name) for name in reading.texts(path, "class_names", saved["class_names"])]
    drawers = saved.get("drawer")
    lengths = {len(column) for column in (images, labels, train, drawers) if column is not None}
    if len(lengths) != 1 or not (lengths == {0} or 0 <= labels.min() <= labels.max() < len(names)):
        raise DataError(
            f"{path}: every image needs a label, counted from 0, with a name. Received: {len(images)} images, "
            f"{len(labels)} labels, {len(train)} sides, {len(names)} names. Expected:\n{LAYOUT}"
        )
    order = np.argsort(labels, kind="stable")
    ids = _ids(labels, names, drawers, order)

    def side(rows: np.ndarray) -> Split:
        pixels = _unpacked(images[rows]) if packed else images[rows]
        kept, numbers = np.unique(labels[rows], return_inverse=True)
        return Split(pixels[..., None], numbers, [names[label] for label in kept], [ids[row] for row in rows])

    return side(order[train[order]]), side(order[~train[order]])


def _unpacked(bits: np.ndarray) -> np.ndarray:
    """`(n, 105, 105)` uint8 images, 0 where a bit says ink and 255 elsewhere; in place, since they are large."""
    pixels = np.unpackbits(bits, axis=1, count=SIDE * SIDE)
    np.subtract(1, pixels, out=pixels)
    np.multiply(pixels, 255, out=pixels)
    return pixels.reshape(-1, SIDE, SIDE)


def _from_folders(root: pathlib.Path) -> Split:
    if not root.is_dir():
        raise DataError(f"{root} is missing. Expected:\n{LAYOUT}")
    classes = [
        (f"{alphabet.name}/{character.name}", folders.images_below(character))
        for alphabet in folders.subfolders(root)
        for character in folders.subfolders(alphabet)
    ]
    files = [file for _, images in classes for file in images]
    labels = np.array([label for label, (_, images) in enumerate(classes) for _ in images], int)
    names = [name for name, _ in classes]
    # Files are named CHARACTER_DRAWER.png.
    ids = [f"{names[label]}/{file.stem.rpartition('_')[2]}" for file, label in zip(files, labels, strict=True)]
    return Split(FileImages(files), labels, names, ids)


def _from_records(folder: pathlib.Path, side: str) -> Split:
    table = tfrecords.read_table(folder, (side,), ("label",))
    labels = table.labels()
    names = [_plain(name) for name in table.names()]
    order = np.argsort(labels, kind="stable")
    ids = _ids(labels, names, None, order)
    return Split(table.images, labels, names, ids).subset(order)


def in_memory(benchmark: Benchmark) -> Benchmark:
    """The benchmark as gray arrays `(n, 105, 105, 1)`, 358 MB: decoding such small images for every batch would cost
    more than training does.

    Raises:
        DataError: If images cannot be read; the text names the first.
    """
    train, test = (_decoded(split) for split in (benchmark.train, benchmark.test))
    return dataclasses.replace(benchmark, train=train, test=test)


def _decoded(split: Split) -> Split:
    if split.images is not None:
        return split
    try:
        with unreadable_images_named():
            batches = split.dataset(ImagePreprocessing(SIDE, channels=1), 1024)
            pixels = np.concatenate([np.asarray(batch).astype(np.uint8) for batch in batches])
    except DataError as error:
        bad = split.verify()
        if not bad:
            raise
        raise DataError(
            f"{len(bad)} images cannot be read. The first: {bad[0].id!r}: {bad[0].reason}. To leave them out, load "
            'with bad_images="skip" (--bad-images skip on the command line)'
        ) from error
    return Split(pixels, split.labels, split.class_names, split.ids)


def _ids(labels: np.ndarray, names: Sequence[str], drawers: np.ndarray | None, order: np.ndarray) -> list[str]:
    """`ALPHABET/characterNN/DRAWER`, where the drawer is not known by order of appearance."""
    ids = [""] * len(labels)
    seen: dict[int, int] = {}
    for row in order:
        label = int(labels[row])
        seen[label] = seen.get(label, 0) + 1
        ids[row] = f"{names[label]}/{seen[label] if drawers is None else int(drawers[row]):02d}"
    return ids


def _plain(name: str) -> str:
    """A class name as the original folders have it: `ALPHABET/characterNN`, counted from 1."""
    name = str(name).removeprefix("background/").removeprefix("evaluation/")
    if "/" in name:
        return name
    # TensorFlow Datasets has ALPHABET_N, counted from 0.
    alphabet, _, number = name.rpartition("_")
    return f"{alphabet}/character{int(number) + 1:02d}" if alphabet and number.isdigit() else name
