"""Benchmarks by name."""

import pathlib
from collections.abc import Callable

from keras_dml.data.benchmark import Benchmark
from keras_dml.data.digits import load_digits
from keras_dml.utils.suggestions import unknown_name

# Each loader takes the data folder, or None where the benchmark needs none or has a default.
BENCHMARKS: dict[str, Callable[[pathlib.Path | None], Benchmark]] = {
    "digits": lambda data_dir: load_digits(),
}


def load(name: str, data_dir: str | pathlib.Path | None = None) -> Benchmark:
    """Loads a benchmark.

    Args:
        name: A key of `BENCHMARKS`.
        data_dir: Folder with the data, for benchmarks that do not ship with a package.
    """
    if name not in BENCHMARKS:
        raise ValueError(unknown_name("benchmark", name, BENCHMARKS))
    return BENCHMARKS[name](pathlib.Path(data_dir) if data_dir is not None else None)
