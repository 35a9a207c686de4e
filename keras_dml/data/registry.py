"""Benchmarks by name."""

import functools
import pathlib
import warnings
from collections.abc import Callable

import numpy as np

from keras_dml.data.bad_image import BadImage
from keras_dml.data.benchmark import Benchmark
from keras_dml.data.cars196 import load_cars196
from keras_dml.data.cub200 import load_cub200
from keras_dml.data.data_error import DataError
from keras_dml.data.digits import load_digits
from keras_dml.data.domainnet import TARGETS, load_domainnet
from keras_dml.data.image_folder import load_folder
from keras_dml.data.imagenet import load_imagenet10k, load_imagenet2010
from keras_dml.data.in_shop import load_inshop
from keras_dml.data.load_options import LoadOptions
from keras_dml.data.omniglot import in_memory, load_omniglot
from keras_dml.data.split import Split
from keras_dml.data.stanford_online_products import load_sop
from keras_dml.data.zero_shot import check_queries
from keras_dml.utils.suggestions import unknown_name

BENCHMARKS: dict[str, Callable[[LoadOptions], Benchmark]] = {
    "digits": load_digits,
    "omniglot": load_omniglot,
    "cub200": load_cub200,
    "cub200_cropped": functools.partial(load_cub200, cropped=True),
    "cars196": load_cars196,
    "cars196_cropped": functools.partial(load_cars196, cropped=True),
    "sop": load_sop,
    "inshop": load_inshop,
    **{f"domainnet_{target}": functools.partial(load_domainnet, target=target) for target in TARGETS},
    **{
        f"domainnet_{target}_to_real": functools.partial(load_domainnet, target=target, real_gallery=True)
        for target in TARGETS
    },
    "imagenet2010_zero_shot": load_imagenet2010,
    "imagenet10k_transfer": load_imagenet10k,
    "folder": load_folder,
}


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
            "skip": every image is decoded once beforehand, and those that cannot be read are left out and named in a
            warning; the benchmark is a subset then.
        download: Whether TensorFlow Datasets may download what is not there; by default only if no `data_dir` is
            given.

    Raises:
        DataError: A ValueError: if the data are missing, not the protocol's, or of such classes that nothing can be
            measured on them; the text says what to do.
    """
    if name not in BENCHMARKS:
        raise ValueError(unknown_name("benchmark", name, BENCHMARKS))
    if bad_images not in ("fail", "skip"):
        raise ValueError(f'`bad_images` must be "fail" or "skip". Received: bad_images={bad_images!r}')
    folder = pathlib.Path(data_dir).expanduser() if data_dir is not None else None
    benchmark = BENCHMARKS[name](LoadOptions(folder, subset, download))
    if bad_images == "skip":
        benchmark = _without_bad_images(benchmark)
    check_queries(benchmark)
    return in_memory(benchmark) if name == "omniglot" else benchmark


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
    warnings.warn(
        f"{benchmark.name}: left out {len(named)} images that cannot be read: {listed}"
        f"{' ...' if len(named) > 10 else ''}",
        stacklevel=3,
    )
    # What is left is no longer what a figure was published for.
    return Benchmark(benchmark.name, train, test, gallery, subset=True)
