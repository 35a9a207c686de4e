"""Benchmarks by name: how a loader registers, what it is told, and what every benchmark is checked for."""

import dataclasses
import pathlib
import warnings
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

from keras_dml.data.benchmark import Benchmark, Protocol
from keras_dml.data.errors import BadImage, DataError
from keras_dml.data.split import Split
from keras_dml.utils.registry import FunctionRegistry
from keras_dml.utils.suggestions import unknown_name


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """How to load a benchmark.

    Args:
        data_dir: Folder (or file) with the data, or None.
        subset: Whether numbers of images and classes may differ from the protocol's.
        download: Whether TensorFlow Datasets may download; None allows it where there is no `data_dir`.
    """

    data_dir: pathlib.Path | None = None
    subset: bool = False
    download: bool | None = None

    @property
    def may_download(self) -> bool:
        """Whether missing data are downloaded."""
        return self.data_dir is None if self.download is None else self.download


def warn_ignored(options: LoadOptions, what: str) -> None:
    """Warns of options that say nothing to a benchmark that is always there and whole.

    Args:
        options: As they were given.
        what: The benchmark and where it comes from, to begin the sentence with.
    """
    if options.data_dir is not None or options.subset:
        ignored = "subset" if options.data_dir is None else f"the data folder {options.data_dir}"
        warnings.warn(f"{what} and always whole: {ignored} is ignored", stacklevel=4)


Loader: TypeAlias = Callable[[LoadOptions], Benchmark]
Finish: TypeAlias = Callable[[Benchmark], Benchmark]

BENCHMARKS: Final[FunctionRegistry[Loader]] = FunctionRegistry("benchmark")
_FINISHES: dict[str, Finish] = {}


def register_benchmark(name: str, finish: Finish | None = None) -> Callable[[Loader], Loader]:
    """A function decorator: `load(name)`, recipes and `--gallery name` then know the loader by that name.

    Works outside of this package too.

    Args:
        name: What users call the benchmark.
        finish: Is given the checked benchmark, without its unreadable images, and returns what `load` returns.

    Raises:
        ValueError: When it is applied, if the name belongs to another loader.

    Example:
        >>> @register_benchmark("shoes")
        ... def load_shoes(options: LoadOptions) -> Benchmark: ...
    """

    def decorate(loader: Loader) -> Loader:
        BENCHMARKS.register(name)(loader)
        if finish is not None:
            _FINISHES[name] = finish
        return loader

    return decorate


def load(
    name: str,
    data_dir: str | pathlib.Path | None = None,
    subset: bool = False,
    bad_images: str = "fail",
    download: bool | None = None,
) -> Benchmark:
    """Loads a benchmark.

    Args:
        name: A key of `BENCHMARKS`.
        data_dir: Folder with the data: the unpacked archives, or what TensorFlow Datasets has prepared. By default
            that library's own folder. See docs/data.md for what each benchmark looks for.
        subset: Whether to accept numbers of images and classes that differ from the published protocol's.
        bad_images: "fail": an image that cannot be read ends whatever reaches it, with an error that names it.
            "skip": decodes every image once, leaves out those that cannot be read and names them in a warning; the
            benchmark is a subset then.
        download: Whether TensorFlow Datasets may download what is missing; by default only without a `data_dir`.

    Raises:
        DataError: A ValueError: if the data are missing, not the protocol's, or of such classes that nothing can be
            measured on them; the text says what to do.
        ImportError: If the data need TensorFlow (downloads, TFRecords) and it is not installed.
    """
    if name not in BENCHMARKS:
        raise ValueError(unknown_name("benchmark", name, BENCHMARKS))
    if bad_images not in ("fail", "skip"):
        raise ValueError(f'`bad_images` must be "fail" or "skip". Received: bad_images={bad_images!r}')
    folder = pathlib.Path(data_dir).expanduser() if data_dir is not None else None
    try:
        benchmark = BENCHMARKS[name](LoadOptions(folder, subset, download))
        if bad_images == "skip":
            benchmark = _without_bad_images(benchmark)
        _check_queries(benchmark)
        return _FINISHES[name](benchmark) if name in _FINISHES else benchmark
    except ValueError as error:
        # What is said of images, labels and classes knows no files.
        where = "" if folder is None or str(folder) in str(error) else f" (data folder: {folder})"
        if isinstance(error, DataError) and not where:
            raise
        raise DataError(f"{error}{where}") from error


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


def _check_queries(benchmark: Benchmark) -> None:
    """Warns of queries without a partner: another image of their class on the side that is searched.

    Raises:
        DataError: If the searched side has images of one class only, or if no query has a partner.
    """
    queries, gallery = benchmark.test, benchmark.gallery
    side, searched = ("test", queries) if gallery is None else ("gallery", gallery)
    images = np.bincount(searched.labels, minlength=searched.num_classes)
    if np.count_nonzero(images) < 2:
        raise DataError(
            f"The {side} side of {benchmark.name!r} has images of one class only: every answer would be right. "
            "At least two classes are needed"
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


def _without_bad_images(benchmark: Benchmark) -> Benchmark:
    named: list[BadImage] = []

    def readable(split: Split) -> Split:
        bad = split.verify()
        named.extend(bad)
        # Test and gallery number the same classes, so nothing may be renumbered.
        return split.subset(np.setdiff1d(np.arange(len(split)), [image.row for image in bad]), renumber=False)

    gallery = None if benchmark.gallery is None else readable(benchmark.gallery)
    train, test = readable(benchmark.train), readable(benchmark.test)
    if not named:
        return benchmark
    if not all(len(split) for split in (train, test, gallery) if split is not None):
        raise DataError(
            f"A side of {benchmark.name!r} has no image that can be read. The first bad one: {named[0].id}: "
            f"{named[0].reason}"
        )
    listed = "; ".join(f"{image.id} ({image.reason})" for image in named[:10])
    if len(np.unique(train.labels)) < 2 <= len(np.unique(benchmark.train.labels)):
        raise DataError(
            f"Without the {len(named)} images that cannot be read, the training side of {benchmark.name!r} has one "
            f"class only, from which nothing can be learned. Unreadable are: {listed}. Repair them or get them again"
        )
    warnings.warn(
        f"{benchmark.name}: left out {len(named)} images that cannot be read: {listed}"
        f"{' ...' if len(named) > 10 else ''}",
        stacklevel=3,
    )
    # What is left is no longer what a figure was published for.
    return Benchmark(benchmark.name, train, test, gallery, subset=True)
