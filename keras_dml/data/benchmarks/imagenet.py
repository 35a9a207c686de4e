"""PDDM's large benchmarks: ImageNet 2010 with unseen classes, and transfer to ImageNet-10K. Local folders only."""

import pathlib

from keras_dml.data import folders, reading
from keras_dml.data.benchmark import Benchmark, Protocol
from keras_dml.data.errors import DataError
from keras_dml.data.loading import LoadOptions, assemble, register_benchmark

Classes = list[tuple[str, list[pathlib.Path]]]

TRAIN_CLASSES, TEST_CLASSES = 800, 200
IMAGES_2010, IMAGES_2012 = 1_261_406, 1_281_167
"""Training images of ILSVRC-2010 and, with other classes, of ILSVRC-2012 (Russakovsky et al., IJCV 2015, Table 2)."""
IMAGENET_10K_CLASSES = 10_184
LAYOUT_2010 = """\
  [imagenet2010/]train/n01440764/*.JPEG ...: the 1,000 class folders of ILSVRC-2010's 1,261,406 training images, named
      by WordNet id; ILSVRC-2012 has others (the archive ILSVRC2010_images_train.tar, unpacked with the archives inside
      it, from https://image-net.org, registration needed; checksum not known)
  [imagenet2010/]train_classes.txt, test_classes.txt (optional): 800 and 200 WordNet ids, one a line; without them the
      first 800 ids in sorted order train and the other 200 test. PDDM's own lists are not published"""
LAYOUT_10K = f"""\
{LAYOUT_2010}
  imagenet10k/gallery/n........./* and imagenet10k/query/n........./*: the 10,184 synsets of ImageNet's Fall 2009
      release with more than 200 images each (Deng et al., ECCV 2010), one half of each synset's images as the labelled
      gallery and the other as queries. Which image belongs to which half is not published"""


@register_benchmark("imagenet2010_zero_shot")
def load_imagenet2010(options: LoadOptions) -> Benchmark:
    """800 classes of ILSVRC-2010 for training, the other 200 for test."""
    root = folders.existing_folder(options.data_dir, "imagenet2010_zero_shot", LAYOUT_2010)
    train, test = _sides("imagenet2010_zero_shot", root, options)
    return assemble(
        "imagenet2010_zero_shot",
        options,
        Protocol(train_classes=TRAIN_CLASSES, test_classes=TEST_CLASSES),
        folders.split_of_classes(root, train),
        folders.split_of_classes(root, test),
    )


@register_benchmark("imagenet10k_transfer")
def load_imagenet10k(options: LoadOptions) -> Benchmark:
    """800 classes of ILSVRC-2010 for training; queries and gallery of ImageNet-10K without these classes.

    The flat top-1 accuracy of the nearest gallery image is Recall@1. Classes that were trained on are left out of both
    queries and gallery, so that no class is on both sides.
    """
    name = "imagenet10k_transfer"
    root = folders.existing_folder(options.data_dir, name, LAYOUT_10K)
    train, _ = _sides(name, root, options)
    sides = {}
    for side in ("query", "gallery"):
        folder = root / "imagenet10k" / side
        if not folder.is_dir():
            raise DataError(f"{folder} is missing. The benchmark {name!r} expects:\n{LAYOUT_10K}")
        sides[side] = dict(folders.class_folders(folder))
    names = sorted(set(sides["query"]) | set(sides["gallery"]))
    if not options.subset and len(names) != IMAGENET_10K_CLASSES:
        raise DataError(
            f"ImageNet-10K has {IMAGENET_10K_CLASSES} classes. Received: {len(names)} in {root / 'imagenet10k'}. To "
            "use them anyway, ask for a subset: subset=True (in Python), --subset (on the command line)"
        )
    trained = {wordnet_id for wordnet_id, _ in train}
    kept = [wordnet_id for wordnet_id in names if wordnet_id not in trained]
    query, gallery = (
        folders.split_of_classes(root, [(wordnet_id, sides[side].get(wordnet_id, [])) for wordnet_id in kept])
        for side in ("query", "gallery")
    )
    return assemble(
        name,
        options,
        Protocol(train_classes=TRAIN_CLASSES),
        folders.split_of_classes(root, train),
        query,
        gallery,
    )


def _sides(name: str, root: pathlib.Path, options: LoadOptions) -> tuple[Classes, Classes]:
    """Training and test classes of ILSVRC-2010."""
    layout = LAYOUT_2010 if name == "imagenet2010_zero_shot" else LAYOUT_10K
    base = root / "imagenet2010" if (root / "imagenet2010").is_dir() else root
    if not (base / "train").is_dir():
        raise DataError(f"{base / 'train'} is missing. The benchmark {name!r} expects:\n{layout}")
    classes = dict(folders.class_folders(base / "train"))
    images = sum(len(files) for files in classes.values())
    if not options.subset and images != IMAGES_2010:
        other = " That is ILSVRC-2012, which has other classes." if images == IMAGES_2012 else ""
        raise DataError(
            f"ILSVRC-2010 has {IMAGES_2010} training images in {TRAIN_CLASSES + TEST_CLASSES} classes. Received: "
            f"{images} in {len(classes)} classes, in {base / 'train'}.{other} To use them all the same, ask for a "
            "subset: subset=True (in Python), --subset (on the command line)"
        )
    lists = [base / "train_classes.txt", base / "test_classes.txt"]
    if all(path.is_file() for path in lists):
        sides = [_listed(path) for path in lists]
        shared = sorted(set(sides[0]) & set(sides[1]))
        if shared:
            raise DataError(
                f"{lists[0]} and {lists[1].name} share {len(shared)} classes: {shared[0]} ... Training and test "
                "classes must be disjoint. Take each out of one of the lists"
            )
        unknown = [wordnet_id for side in sides for wordnet_id in side if wordnet_id not in classes]
        if unknown:
            raise DataError(f"{len(unknown)} listed classes have no images in {base / 'train'}: {unknown[0]} ...")
    elif any(path.is_file() for path in lists):
        raise DataError(f"{base} must hold both train_classes.txt and test_classes.txt, or neither")
    else:
        names = sorted(classes)
        sides = [names[:TRAIN_CLASSES], names[TRAIN_CLASSES:]]
    train, test = ([(wordnet_id, classes[wordnet_id]) for wordnet_id in side] for side in sides)
    return train, test


def _listed(path: pathlib.Path) -> list[str]:
    seen: dict[str, int] = {}
    for line in reading.lines(path):
        for wordnet_id in line.text.split():
            if wordnet_id in seen:
                raise line.fault(f"every class once, but {wordnet_id} is there twice")
            seen[wordnet_id] = line.number
    return list(seen)
