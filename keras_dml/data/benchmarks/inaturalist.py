"""iNaturalist 2018: 8,142 species of plants, animals and fungi, most with few photographs and some with hundreds."""

import pathlib
from collections.abc import Iterator

from keras_dml.data import folders, reading
from keras_dml.data.benchmark import Archive, Benchmark, Protocol
from keras_dml.data.errors import DataError
from keras_dml.data.loading import LoadOptions, assemble, register_benchmark
from keras_dml.data.split import Split

PROTOCOL = Protocol(train_classes=5690, train_images=325_846, test_classes=2452, test_images=136_093)
ARCHIVES = (
    Archive(
        "train_val2018.tar.gz",
        "https://ml-inat-competition-datasets.s3.amazonaws.com/2018/train_val2018.tar.gz",
    ),
    Archive("Inat_dataset_splits.zip", "https://drive.google.com/uc?id=1sXfkBTFDrRU3__-NUs1qBP3sf_0uMB98"),
)
SPLITS = ("Inat_dataset_splits/", "")
LISTS = {"train": "Inaturalist_train_set1.txt", "test": "Inaturalist_test_set1.txt"}
FOLDERS = ("", "Inaturalist", "inaturalist", "inaturalist2018")
LAYOUT = f"""\
  [Inat_dataset_splits/]{LISTS["train"]}, {LISTS["test"]}: the path of an image a line
  train_val2018/SUPERCATEGORY/CATEGORY/*.jpg, as the lists name them
(in the folder itself or in one of {", ".join(FOLDERS[1:])}), from
{"".join(f"  {archive}" + chr(10) for archive in ARCHIVES)}"""


@register_benchmark("inaturalist2018")
def load_inaturalist2018(options: LoadOptions) -> Benchmark:
    """The split of Smooth-AP (Brown et al., ECCV 2020): 5,690 species for training (325,846 images), 2,452 for test
    (136,093).

    It is what the recall@k surrogate (Patel et al., CVPR 2022) and pytorch-metric-learning's `INaturalist2018` use.
    The counts of either side are unverified against the lists; together they are the 8,142 categories and the 437,513
    training and 24,426 validation images of iNaturalist 2018. A class is named by its folder, as in `Plantae/7477`.
    """
    root = folders.existing_folder(options.data_dir, "inaturalist2018", LAYOUT)
    candidates = (f"{folder}/{at}{LISTS['train']}".lstrip("/") for folder in FOLDERS for at in SPLITS)
    listed = folders.first_existing(root, candidates)
    if listed is None:
        raise DataError(f"No {LISTS['train']} below {root}. The benchmark 'inaturalist2018' expects there:\n{LAYOUT}")
    base = listed.parent.parent if listed.parent.name == SPLITS[0].rstrip("/") else listed.parent
    train, test = (_from_list(base, listed.with_name(LISTS[side])) for side in ("train", "test"))
    return assemble("inaturalist2018", options, PROTOCOL, train, test)


def _from_list(base: pathlib.Path, path: pathlib.Path) -> Split:
    if not path.is_file():
        raise DataError(f"{path} is missing. Expected:\n{LAYOUT}")
    images = sorted(_listed(path))
    classes = sorted({category for category, _ in images})
    number = {category: label for label, category in enumerate(classes)}
    files = [base / name for _, name in images]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(files)} images that {path} lists are missing: {missing[0]}")
    return folders.split_of_files(base, files, [number[category] for category, _ in images], classes)


def _listed(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Category and path of every image of a list."""
    seen: dict[str, int] = {}
    for line in reading.lines(path):
        parts = pathlib.PurePosixPath(line.text).parts
        if len(parts) < 3 or parts[0] == "/" or ".." in parts:
            raise line.fault(
                "a path as train_val2018/SUPERCATEGORY/CATEGORY/NAME.jpg", "Unpack the archive of the lists again"
            )
        reading.once(seen, line.text, line, "image")
        yield "/".join(parts[-3:-1]), line.text
