"""DomainNet: 345 classes in six styles of picture; train on photographs, test on unseen classes in another style."""

import pathlib

import numpy as np

from keras_dml.data import folders, reading, tfrecords
from keras_dml.data.benchmark import Archive, Benchmark, Protocol
from keras_dml.data.errors import DataError
from keras_dml.data.loading import LoadOptions, assemble, register_benchmark
from keras_dml.data.split import Split, by_class_then_name

CLASSES = 345
TRAIN_CLASSES = 173
SOURCE = "real"
IMAGES = {
    "real": 172_947,
    "clipart": 48_129,
    "infograph": 51_605,
    "painting": 72_266,
    "quickdraw": 172_500,
    "sketch": 69_128,
}
"""Images of each domain in the cleaned version, training and test lists together."""
TARGETS = tuple(sorted(set(IMAGES) - {SOURCE}))
ADDRESS = "http://csr.bu.edu/ftp/visda/2019/multi-source"
CLEANED = ("painting", "clipart")


def load_domainnet(name: str, options: LoadOptions, target: str, real_gallery: bool = False) -> Benchmark:
    """Photographs of the first 173 classes for training; pictures of the last 172 in another domain for test.

    Classes are in the order of the official lists (and of TensorFlow Datasets); the official training and test lists,
    which share all classes, are merged. No class split for retrieval is published: this one is ours.

    Args:
        name: What the benchmark is called.
        options: Where the data are.
        target: The domain of the queries, one of `TARGETS`.
        real_gallery: Whether the gallery is photographs of the test classes, instead of the target domain itself.
    """
    real = _domain(name, options, SOURCE)
    other = _domain(name, options, target)
    test_rows = np.flatnonzero(other.labels >= TRAIN_CLASSES)
    gallery = None
    if real_gallery:
        kept = np.unique(other.labels[test_rows])
        gallery = real.subset(np.flatnonzero(np.isin(real.labels, kept)))
        test_rows = test_rows[np.isin(other.labels[test_rows], np.unique(real.labels))]
    protocol = Protocol(train_classes=TRAIN_CLASSES, test_classes=CLASSES - TRAIN_CLASSES)
    train = real.subset(np.flatnonzero(real.labels < TRAIN_CLASSES))
    return assemble(name, options, protocol, train, other.subset(test_rows), gallery)


def _register(name: str, target: str, real_gallery: bool) -> None:
    @register_benchmark(name)
    def load(options: LoadOptions) -> Benchmark:
        return load_domainnet(name, options, target, real_gallery)


for _target in TARGETS:
    _register(f"domainnet_{_target}", _target, real_gallery=False)
    _register(f"domainnet_{_target}_to_real", _target, real_gallery=True)


def _domain(name: str, options: LoadOptions, domain: str) -> Split:
    root = options.data_dir
    bases = [] if root is None else [root, root / "domainnet", root / "DomainNet"]
    # A prepared data set has a folder of the same name, with versions inside instead of classes.
    base = next((base for base in bases if (base / f"{domain}_train.txt").is_file()), None)
    if base is not None:
        split = _from_lists(base, domain)
    else:
        archive = "groundtruth/" if domain in CLEANED else ""
        archives = (
            Archive(f"{domain}.zip", f"{ADDRESS}/{archive}{domain}.zip"),
            *(
                Archive(f"{domain}_{side}.txt", f"{ADDRESS}/domainnet/txt/{domain}_{side}.txt")
                for side in ("train", "test")
            ),
        )
        layout = f"  {domain}/CLASS/*, {domain}_train.txt, {domain}_test.txt (in the folder, domainnet/ or DomainNet/)"
        split = _from_records(tfrecords.prepared(name, options, "domainnet", archives, layout, config=domain), domain)
    if not options.subset and len(split) != IMAGES[domain]:
        raise DataError(
            f"DomainNet's cleaned {domain!r} has {IMAGES[domain]} images. Received: {len(split)}. To use them "
            "anyway, ask for a subset: subset=True (in Python), --subset (on the command line)"
        )
    return split


def _from_lists(base: pathlib.Path, domain: str) -> Split:
    rows: list[tuple[str, int]] = []
    elsewhere: set[str] = set()
    for side in ("train", "test"):
        path = base / f"{domain}_{side}.txt"
        if not path.is_file():
            raise DataError(f"{path} is missing: the official list of {domain} images")
        seen: dict[str, int] = {}
        for line in reading.lines(path):
            file, separator, number = line.text.rpartition(" ")
            if not separator:
                raise line.fault("the path of an image and its class")
            reading.once(seen, file, line, "image")
            if file in elsewhere:
                raise line.fault(f"an image that {domain}_train.txt does not list")
            rows.append((file.rstrip(), line.whole_number(number, "the class", 0, CLASSES - 1)))
        elsewhere |= seen.keys()
        if not seen:
            raise DataError(f"{path} is empty. Expected: the official list of {domain} images. Get it again")
    labels = np.array([label for _, label in rows])
    names = [f"{label:03d}" for label in range(CLASSES)]
    for file, label in rows:
        names[label] = pathlib.PurePosixPath(file).parent.name
    order = by_class_then_name(labels, [file for file, _ in rows])
    files = [base / rows[row][0] for row in order]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(files)} listed images of {domain} are missing: {missing[0]}")
    return folders.split_of_files(base, files, labels[order], names)


def _from_records(folder: pathlib.Path, domain: str) -> Split:
    table = tfrecords.read_table(folder, ("train", "test"), ("label",))
    labels = table.labels()
    order = np.argsort(labels, kind="stable")
    ids = [f"{domain}/{row:06d}" for row in order]
    return Split(table.images.subset(order), labels[order], table.names(), ids)
