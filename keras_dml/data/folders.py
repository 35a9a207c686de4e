"""Class folders on disk."""

import difflib
import pathlib
import re
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_dml.data.errors import DataError
from keras_dml.data.images.pillow import size_of_file
from keras_dml.data.sources import FileImages
from keras_dml.data.split import Split

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"})
FOREIGN_SUFFIXES = frozenset({".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm"})
"""Images that TensorFlow does not decode."""
NOT_DATA = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


def visible(folder: pathlib.Path) -> list[pathlib.Path]:
    """What is in a folder, sorted by name, without hidden files and what archivers leave behind."""
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name not in NOT_DATA)
    return sorted(entries, key=lambda entry: entry.name)


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The visible folders in a folder, sorted by name, without links that lead back to it or to a folder above it."""
    here = folder.resolve()
    return [
        entry
        for entry in visible(folder)
        if entry.is_dir() and not (entry.is_symlink() and here.is_relative_to(entry.resolve()))
    ]


def images_below(folder: pathlib.Path, seen: set[pathlib.Path] | None = None) -> list[pathlib.Path]:
    """All image files in a folder and below, sorted; warns of image files of a kind that cannot be read.

    Args:
        folder: Where to look.
        seen: Resolved folders that are not to be entered (again), to which the ones entered are added: a symbolic link
            may lead back to a folder above.
    """
    here = folder.resolve()
    seen = set(here.parents) if seen is None else seen
    if here in seen:
        return []
    seen.add(here)
    found: list[pathlib.Path] = []
    foreign: list[pathlib.Path] = []
    strange: list[pathlib.Path] = []
    for entry in visible(folder):
        if entry.is_dir():
            found.extend(images_below(entry, seen))
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            # A pipe would be waited for; a broken link is an image that cannot be read.
            (found if entry.is_file() or not entry.exists() else strange).append(entry)
        elif entry.suffix.lower() in FOREIGN_SUFFIXES:
            foreign.append(entry)
    if foreign:
        warnings.warn(
            f"{len(foreign)} images in {folder} are left out, since only {', '.join(sorted(IMAGE_SUFFIXES))} can be "
            f"read. The first: {foreign[0].name}. Convert them to JPEG or PNG to use them",
            stacklevel=2,
        )
    if strange:
        warnings.warn(
            f"{len(strange)} entries in {folder} have the name of an image and are a pipe or a device; they are left "
            f"out. The first: {strange[0].name}",
            stacklevel=2,
        )
    return found


def check_boxes(path: pathlib.Path, files: Sequence[pathlib.Path], boxes: np.ndarray) -> None:
    """Compares boxes with the sizes of their images, which stand in the files' headers.

    Args:
        path: The file that the boxes are from.
        files: The images.
        boxes: `(n, 4)` `ymin, xmin, ymax, xmax` in pixels.

    Raises:
        DataError: A box reaches more than a pixel beyond its image; lists count from 0 or from 1.
    """

    def outside(file: pathlib.Path, box: np.ndarray) -> str | None:
        try:
            height, width = size_of_file(file)
        except DataError:
            # It is named where images are decoded, or left out there.
            return None
        if box[2] <= height + 1 and box[3] <= width + 1:
            return None
        return f"{file}: {box.tolist()} in an image of {height} x {width} pixels"

    with ThreadPoolExecutor(8) as pool:
        wrong = [text for text in pool.map(outside, files, boxes) if text is not None]
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} of {len(files)} boxes (ymin, xmin, ymax, xmax) reach beyond their images. The "
            f"first: {wrong[0]}. Boxes and images are not of one data set; get both again"
        )


def first_existing(root: pathlib.Path, candidates: Iterable[str]) -> pathlib.Path | None:
    """The first of some paths below `root` that exists."""
    return next((root / name for name in candidates if (root / name).exists()), None)


def class_folders(folder: pathlib.Path) -> list[tuple[str, list[pathlib.Path]]]:
    """Name and images of every class folder, in order of name; warns of folders without images, and of images that
    are in no class folder."""
    classes = [(entry.name, images_below(entry)) for entry in subfolders(folder)]
    empty = [name for name, images in classes if not images]
    if empty:
        warnings.warn(
            f"{len(empty)} folders in {folder} hold no image and are no class: {', '.join(empty[:5])}"
            f"{' ...' if len(empty) > 5 else ''}",
            stacklevel=2,
        )
    loose = [entry.name for entry in visible(folder) if entry.is_file() and entry.suffix.lower() in IMAGE_SUFFIXES]
    if loose and classes:
        warnings.warn(
            f"{len(loose)} images in {folder} lie in no class folder and are left out. The first: {loose[0]}",
            stacklevel=2,
        )
    merged = [
        f"{name} ({', '.join(below[:3])}{' ...' if len(below) > 3 else ''})"
        for name, images in classes
        if len(below := sorted({image.relative_to(folder / name).parts[0] for image in images})) > 1
        and all((folder / name / part).is_dir() for part in below)
    ]
    if merged:
        warnings.warn(
            f"{len(merged)} classes in {folder} have their images in several folders below, which are taken together: "
            f"{'; '.join(merged[:3])}{' ...' if len(merged) > 3 else ''}. If those are the classes, move them up, or "
            "give the folder that holds them",
            stacklevel=2,
        )
    return [(name, images) for name, images in classes if images]


def number_of(name: str) -> int | None:
    """The class number that a folder name such as `001.Black_footed_Albatross` begins with."""
    if re.fullmatch(r"\d+\.\d+\.\d+", name):
        # A version, as data sets of TensorFlow Datasets have below them.
        return None
    match = re.match(r"(\d+)(?:[._ -]|$)", name)
    return None if match is None else int(match[1])


def split_of_files(
    root: pathlib.Path,
    files: Sequence[pathlib.Path],
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    boxes: np.ndarray | None = None,
) -> Split:
    """A split of image files whose ids are the paths below `root`."""
    return Split(FileImages(files, boxes), labels, class_names, [_below(file, root) for file in files])


def split_of_classes(root: pathlib.Path, classes: Sequence[tuple[str, Sequence[pathlib.Path]]]) -> Split:
    """A split of class folders, labelled in the order given."""
    files = [file for _, images in classes for file in images]
    labels = [label for label, (_, images) in enumerate(classes) for _ in images]
    return split_of_files(root, files, labels, [name for name, _ in classes])


def split_of_numbered_classes(root: pathlib.Path, count: int) -> Split:
    """A split of class folders named `001...`, `002...`: the number, less 1, is the label.

    Raises:
        DataError: For a number outside 1 to `count`, or one that two folders have.
    """
    names: dict[int, str] = {}
    unnumbered: list[str] = []
    files: list[pathlib.Path] = []
    labels: list[int] = []
    for name, images in class_folders(root):
        number = number_of(name)
        if number is None:
            unnumbered.append(name)
            continue
        if not 1 <= number <= count or number in names:
            raise DataError(f"Class folders in {root} must be numbered 1 to {count}, each once. Received: {name}")
        names[number] = name
        files.extend(images)
        labels.extend([number - 1] * len(images))
    if unnumbered:
        warnings.warn(
            f"{len(unnumbered)} folders in {root} have no number among others that have, and are left out: "
            f"{', '.join(unnumbered[:5])}{' ...' if len(unnumbered) > 5 else ''}",
            stacklevel=2,
        )
    class_names = [names.get(number, f"{number:03d}") for number in range(1, count + 1)]
    order = np.argsort(labels, kind="stable")
    return split_of_files(root, [files[row] for row in order], np.array(labels, int)[order], class_names)


def plain(name: str) -> str:
    """Letters and digits of a class name, in lower case: what copies of a data set that spell it differently share."""
    return re.sub(r"[\W_]", "", name.casefold())


def split_of_named_classes(root: pathlib.Path, names: Sequence[str]) -> Split | None:
    """A split of class folders named as the classes are, in `root` or in `root`/train and `root`/test.

    Case, blanks, underscores and punctuation do not matter. The official order gives the labels, never the folders'.

    Args:
        root: The folder.
        names: The classes' official names in their official order.

    Returns:
        None if no folder has the name of a class.

    Raises:
        DataError: If some folders have and some have not.
    """
    label_of = {plain(name): label for label, name in enumerate(names)}
    sides = [root / side for side in ("train", "test")]
    bases = sides if all(side.is_dir() for side in sides) else [root]
    found = [folder for base in bases for folder in subfolders(base)]
    unknown = [folder for folder in found if plain(folder.name) not in label_of]
    if len(unknown) == len(found):
        return None
    if unknown:
        near = difflib.get_close_matches(unknown[0].name, names, n=1)
        raise DataError(
            f"{len(unknown)} of {len(found)} folders in {root} do not have the name of a class: {unknown[0].name!r}"
            f"{f' (did you mean {near[0]!r}?)' if near else ''} ... Rename or remove them"
        )
    classes = [
        (label_of[plain(name)], file) for base in bases for name, images in class_folders(base) for file in images
    ]
    classes.sort(key=lambda entry: entry[0])
    return split_of_files(root, [file for _, file in classes], [label for label, _ in classes], names)


def existing_folder(data_dir: pathlib.Path | None, name: str, expected: str) -> pathlib.Path:
    """`data_dir`, if it is a folder.

    Raises:
        DataError: It is no folder; the text says what is expected there.
    """
    if data_dir is None:
        raise DataError(
            f"The benchmark {name!r} needs a data folder (data_dir, --data-dir). Expected there:\n{expected}"
        )
    if not data_dir.is_dir():
        raise DataError(f"The data folder {data_dir} does not exist. The benchmark {name!r} expects there:\n{expected}")
    return data_dir


def _below(file: pathlib.Path, root: pathlib.Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()
