"""The user's own images: a folder for each class."""

import pathlib
import warnings

from keras_dml.data import folders
from keras_dml.data.benchmark import Benchmark, Protocol
from keras_dml.data.errors import DataError
from keras_dml.data.loading import LoadOptions, assemble, register_benchmark
from keras_dml.data.split import Split

LAYOUT = """\
  CLASS/*.jpg (or .png, .gif, .bmp, .webp; also deeper): the first half of the classes, in order of name, trains, the
      rest is the test side
or train/CLASS/* and test/CLASS/*, and maybe gallery/CLASS/*: as given, with no class in both train and test"""

SIDES = ("train", "test", "gallery")


@register_benchmark("folder")
def load_folder(options: LoadOptions) -> Benchmark:
    """The user's own images: each class is a folder."""
    root = folders.existing_folder(options.data_dir, "folder", LAYOUT)
    train_side, test_side = (root / side for side in ("train", "test"))
    for side, other in ((train_side, test_side), (test_side, train_side)):
        # Without folders in it, it is a class that happens to have this name.
        if not other.is_dir() and side.is_dir() and folders.subfolders(side):
            raise DataError(f"{side} holds class folders, but {other} does not exist. Expected:\n{LAYOUT}")
    if train_side.is_dir() and test_side.is_dir():
        ignored = [folder.name for folder in folders.subfolders(root) if folder.name not in SIDES]
        if ignored:
            warnings.warn(
                f"{root} has {' and '.join(SIDES[:2])}, so its other folders are left out: {', '.join(ignored[:5])}"
                f"{' ...' if len(ignored) > 5 else ''}. Expected:\n{LAYOUT}",
                stacklevel=2,
            )
        train = folders.split_of_classes(root, _classes(train_side))
        test, gallery = _test(root)
        shared = sorted(set(train.class_names) & set(test.class_names))
        if shared:
            raise DataError(
                f"{root}: {len(shared)} classes have images in train and in {' or '.join(SIDES[1:])}: "
                f"{', '.join(shared[:5])}{' ...' if len(shared) > 5 else ''}. Training and test classes must be "
                "disjoint: retrieval is measured on classes that training has not seen. Move all images of a class to "
                "one side, or put the class folders side by side in one folder, to have the first half of them train"
            )
    else:
        base = root / "images" if [folder.name for folder in folders.subfolders(root)] == ["images"] else root
        classes = _classes(base)
        if len(classes) < 4:
            raise DataError(
                f"{base} holds {len(classes)} class folder{'' if len(classes) == 1 else 's'} with images; a training "
                f"and a test side need two each at least. Expected:\n{LAYOUT}"
            )
        half = (len(classes) + 1) // 2
        train, test = folders.split_of_classes(root, classes[:half]), folders.split_of_classes(root, classes[half:])
        gallery = None
    # No published counts to compare with.
    return assemble("folder", options, Protocol(), train, test, gallery)


def _classes(folder: pathlib.Path) -> list[tuple[str, list[pathlib.Path]]]:
    classes = folders.class_folders(folder)
    if not classes and folders.images_below(folder):
        raise DataError(f"{folder} holds images but no class folders. Expected:\n{LAYOUT}")
    return classes


def _test(root: pathlib.Path) -> tuple[Split, Split | None]:
    queries = dict(_classes(root / "test"))
    if not (root / "gallery").is_dir():
        return folders.split_of_classes(root, list(queries.items())), None
    gallery = dict(_classes(root / "gallery"))
    # Both sides number the union of their classes.
    names = sorted(set(queries) | set(gallery))
    query_split, gallery_split = (
        folders.split_of_classes(root, [(name, side.get(name, [])) for name in names]) for side in (queries, gallery)
    )
    return query_split, gallery_split
