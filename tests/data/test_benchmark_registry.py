"""Benchmarks register beside their loaders, in this package and outside of it, and are documented."""

import pathlib
import re

import numpy as np
import pytest
from backend_checks import TENSORFLOW

from keras_dml.data import BENCHMARKS, Benchmark, LoadOptions, Split, load, loading, register_benchmark
from keras_dml.utils.requirements import tensorflow_module

DOCUMENTATION = pathlib.Path(__file__).parents[2] / "docs" / "data.md"


@pytest.fixture
def registry():
    """What a test registers is gone after it."""
    known, finishes = dict(BENCHMARKS._entries), dict(loading._FINISHES)
    yield
    BENCHMARKS._entries.clear()
    BENCHMARKS._entries.update(known)
    loading._FINISHES.clear()
    loading._FINISHES.update(finishes)


def shoes(options):
    images = np.zeros((8, 4, 4, 1), np.uint8)
    sides = [Split(images, np.arange(8) % 2, (f"{side} a", f"{side} b")) for side in ("train", "test")]
    return Benchmark("shoes", *sides, subset=options.subset)


def test_every_benchmark_has_a_row_in_the_documentation():
    table = DOCUMENTATION.read_text(encoding="utf-8").partition("## Benchmarks")[2].partition("\n## ")[0]
    documented = set()
    for line in table.splitlines():
        if line.startswith("| `"):
            names = re.findall(r"`([\w]+)`", line.split("|")[1])
            # `domainnet_clipart`, `_infograph`: the further names of a row may leave out what they share.
            shared = names[0].rpartition("_")[0]
            documented.update(shared + name if name.startswith("_") else name for name in names)
    assert documented == set(BENCHMARKS)


def test_a_benchmark_from_outside(registry, tmp_path):
    register_benchmark("shoes")(shoes)
    assert len(load("shoes").train) == 8
    assert load("shoes", subset=True).subset
    told = []

    @register_benchmark("boots", finish=lambda benchmark: told.append(benchmark.name) or benchmark)
    def boots(options):
        told.append(options)
        return shoes(options)

    load("boots", tmp_path, download=False)
    assert told == [LoadOptions(tmp_path, download=False), "shoes"]
    with pytest.raises(ValueError, match=r"'shoe'\. Did you mean 'shoes'\?"):
        load("shoe")


def test_a_taken_name_is_an_error(registry):
    with pytest.raises(
        ValueError,
        match=r"'digits' is taken by keras_dml\.data\.benchmarks\.digits.*benchmark_registry\.shoes",
    ):
        register_benchmark("digits")(shoes)
    assert len(load("digits").train) == 901
    # A cell of a notebook may run twice.
    register_benchmark("shoes")(shoes)
    register_benchmark("shoes")(shoes)


def test_what_needs_tensorflow_says_so():
    with pytest.raises(ImportError, match=r'Reading x needs no_such, .*: pip install "keras-dml\[tensorflow\]"'):
        tensorflow_module("no_such.module", "Reading x")


@pytest.mark.skipif(TENSORFLOW, reason="TensorFlow Datasets is there")
def test_a_download_without_tensorflow_says_what_to_install(tmp_path):
    with pytest.raises(ImportError, match=r"Downloading 'caltech_birds2011' needs .*keras-dml\[tensorflow\]"):
        load("cub200", tmp_path, download=True)
