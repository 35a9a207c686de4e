"""What a finished run leaves: encoder, state of DAS, embeddings, history, metrics."""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dml.utils.files import write_json, written_aside
from zoo.runs.layout import RunFolder
from zoo.runs.reading import read_embeddings

if TYPE_CHECKING:
    from keras_dml import ImageEncoder
    from keras_dml.data import Benchmark, Split

Sides = tuple[np.ndarray, np.ndarray | None]
"""Embeddings `(n, d)` of the test images, and of the gallery where there is one."""


def save_results(
    folder: pathlib.Path, encoder: "ImageEncoder", augmentation: Any, benchmark: "Benchmark", vectors: Sides
) -> None:
    """Writes what later steps read: encoder, pair scorer, state of DAS, embeddings.

    Args:
        folder: The run folder.
        encoder: The trained encoder.
        augmentation: The `DASAugmentation` it was trained with, or None.
        benchmark: Whose images were embedded.
        vectors: Their embeddings.
    """
    files = RunFolder(folder)
    encoder.save(folder)
    if augmentation is not None:
        _save_arrays(
            files.das_state,
            frequency_recorder_matrix=np.asarray(augmentation.frequency_recorder_matrix),
            transformation_bank=np.asarray(augmentation.transformation_bank),
            bank_fill=np.asarray(augmentation.bank_fill),
        )
    _save_side(files.test_embeddings, benchmark.test, vectors[0])
    if benchmark.gallery is not None and vectors[1] is not None:
        _save_side(files.gallery_embeddings, benchmark.gallery, vectors[1])


def save_known(folder: pathlib.Path, benchmark: "Benchmark", vectors: Sides) -> None:
    """Saves the embeddings of the known queries and of the training images, which are their gallery."""
    files = RunFolder(folder)
    assert benchmark.known is not None
    assert vectors[1] is not None
    _save_side(files.known_embeddings, benchmark.known, vectors[0])
    _save_side(files.train_embeddings, benchmark.train, vectors[1])


def _save_side(path: pathlib.Path, split: "Split", vectors: np.ndarray) -> None:
    _save_arrays(
        path,
        embeddings=vectors,
        labels=split.labels,
        ids=np.array(split.ids),
        class_names=np.array(split.class_names),
    )


def finish(folder: pathlib.Path, history: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Writes history and metrics; with the latter the run counts as finished."""
    files = RunFolder(folder)
    write_json(files.history, history)
    write_json(files.metrics, metrics)


def write_projector(folder: pathlib.Path, split: "Split", most: int = 5000) -> None:
    """Writes the test embeddings (a seeded sample of large sets) for TensorBoard's projector.

    Args:
        folder: The run folder; its embeddings have been saved.
        split: The test images.
        most: Embeddings at most.
    """
    from keras_dml.evaluation import write_projector as write

    files = RunFolder(folder)
    rows = np.arange(len(split))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    write(
        files.tensorboard,
        read_embeddings(files.test_embeddings).vectors[rows],
        split.labels[rows],
        split.class_names,
        [split.ids[row] for row in rows],
    )


def _save_arrays(path: pathlib.Path, **arrays: np.ndarray) -> None:
    with written_aside(path) as aside:
        np.savez(aside, **arrays)  # type: ignore[arg-type]
