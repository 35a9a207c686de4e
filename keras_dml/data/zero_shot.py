"""What the loaders of published benchmarks share."""

import pathlib
import warnings
from collections.abc import Sequence

import numpy as np

from keras_dml.data import tfrecords
from keras_dml.data.archive import Archive
from keras_dml.data.benchmark import Benchmark
from keras_dml.data.data_error import DataError
from keras_dml.data.load_options import LoadOptions
from keras_dml.data.protocol import Protocol
from keras_dml.data.split import Split


def prepared(
    name: str,
    options: LoadOptions,
    dataset: str,
    archives: Sequence[Archive],
    layout: str,
    config: str | None = None,
) -> pathlib.Path:
    """The folder of a data set prepared by TensorFlow Datasets, downloaded if that is allowed and needed.

    Raises:
        DataError: If it is not there, with what is looked for and what archives it comes from.
    """
    found = tfrecords.find_prepared(options.data_dir, dataset, config)
    if found is not None:
        return found
    if options.may_download:
        return tfrecords.download(options.data_dir, dataset, archives, layout, config)
    needed = "\n".join(f"  {archive}" for archive in archives)
    records = f"{dataset}{'' if config is None else '/' + config}/VERSION"
    if options.data_dir is None:
        raise DataError(
            f"The benchmark {name!r} is not in {tfrecords.default_folder()}, where TensorFlow Datasets prepares it as "
            f"{records}, and download=False. Leave out download=False to have it downloaded, or give the folder with "
            f"the data (data_dir). Looked for there are the unpacked archives:\n{layout}\nThe archives:\n{needed}"
        )
    missing = "holds no such data" if options.data_dir.exists() else "does not exist"
    raise DataError(
        f"The benchmark {name!r}: {options.data_dir} {missing}. Looked for the unpacked archives:\n{layout}\n"
        f"or for {records} as TensorFlow Datasets prepares it. Without a data folder (data_dir, --data-dir) that "
        f"library downloads and prepares it in {tfrecords.default_folder()}, with download=True (in Python) in the "
        f"folder given. The archives:\n{needed}"
    )


def split_by_class(everything: Split, train_classes: int) -> tuple[Split, Split]:
    """Images with labels below `train_classes`, and the others."""
    train = everything.labels < train_classes
    return everything.subset(np.flatnonzero(train)), everything.subset(np.flatnonzero(~train))


def assemble(
    name: str,
    options: LoadOptions,
    protocol: Protocol,
    train: Split,
    test: Split,
    gallery: Split | None = None,
) -> Benchmark:
    """The benchmark, if its numbers are the protocol's or a subset is asked for.

    Raises:
        DataError: If they are not, or a side is empty.
    """
    for side, split in (("training", train), ("test", test), ("gallery", gallery)):
        if split is not None and not len(split):
            raise DataError(f"The {side} side of {name!r} holds no image. Data folder: {options.data_dir}")
    if not options.subset:
        protocol.check(name, train, test, gallery)
    return Benchmark(name, train, test, gallery, subset=options.subset)


def check_queries(benchmark: Benchmark) -> None:
    """Warns of queries without a partner: another image of their class on the side that is searched.

    Raises:
        DataError: If the searched side has images of one class only, which any encoder gets right, or if no query has
            a partner, so that there is nothing to find.
    """
    queries, gallery = benchmark.test, benchmark.gallery
    side, searched = ("test", queries) if gallery is None else ("gallery", gallery)
    images = np.bincount(searched.labels, minlength=searched.num_classes)
    if np.count_nonzero(images) < 2:
        raise DataError(
            f"The {side} side of {benchmark.name!r} has images of one class only: whatever is found there is right. "
            "Two classes are needed to measure anything"
        )
    partners = images[queries.labels] - (gallery is None)
    alone = np.count_nonzero(partners == 0)
    partner = "other image" if gallery is None else "image"
    if alone == len(queries):
        raise DataError(
            f"The queries of {benchmark.name!r} have no {partner} of their class on the {side} side: there is nothing "
            "to find"
        )
    if alone:
        warnings.warn(
            f"{benchmark.name}: {alone} of {len(queries)} queries have no {partner} of their class on the {side} side; "
            "they are left out of the metrics",
            stacklevel=3,
        )


def by_class_then_name(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The order of rows that no reader depends on: by label, then by name."""
    return np.lexsort((np.asarray(names), labels))
