"""Class-disjoint cross-validation of the training classes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_dml.evaluation.retrieval import evaluate_retrieval
from keras_dml.evaluation.retrieval_result import RetrievalResult
from keras_dml.typing import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class ClassFold:
    """One fold: which classes and rows are held out for validation.

    Args:
        number: Number of the fold, from 0.
        train: Rows to train on, ascending.
        validation: Rows of the held-out classes, ascending.
        validation_classes: The held-out class labels, ascending.
    """

    number: int
    train: np.ndarray
    validation: np.ndarray
    validation_classes: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class CrossValidation:
    """What the models of all folds reach on a test set ("A Metric Learning Reality Check", ECCV 2020, section 3.3).

    Args:
        separate: One result per fold: each model's own embeddings.
        concatenated: All models' unit-length embeddings side by side, scaled back to unit length; with the Euclidean
            metric, their embeddings side by side as they are.
    """

    separate: tuple[RetrievalResult, ...]
    concatenated: RetrievalResult

    def mean(self, name: str) -> float:
        """Mean of a metric over the folds' own results."""
        return float(np.mean([result.mean(name) for result in self.separate]))

    def spread(self, name: str) -> float:
        """Sample standard deviation over the folds; NaN with one fold."""
        values = [result.mean(name) for result in self.separate]
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """`{"separate": [metrics of each fold], "concatenated": metrics}`, ready for JSON."""
        return {
            "separate": [result.to_dict() for result in self.separate],
            "concatenated": self.concatenated.to_dict(),
        }


def class_folds(labels: Tensor, folds: int = 4, seed: int | None = None) -> Iterator[ClassFold]:
    """Splits labelled rows so that every class is held out exactly once, with all its rows.

    Args:
        labels: `(n,)` class labels.
        folds: Number of folds, from 2 to the number of classes. Sizes differ by at most one class.
        seed: Seed of the shuffle of the classes. None takes the classes in sorted order, the first ones first, as "A
            Metric Learning Reality Check" does.

    Yields:
        One `ClassFold` per fold.
    """
    labels = np.asarray(labels).ravel()
    classes = np.unique(labels)
    if not 2 <= folds <= len(classes):
        raise ValueError(f"`folds` must lie between 2 and the number of classes, {len(classes)}. Received: {folds}")
    order = classes if seed is None else np.random.default_rng(seed).permutation(classes)
    return _folds(labels, [np.sort(part) for part in np.array_split(order, folds)])


def _folds(labels: np.ndarray, parts: Sequence[np.ndarray]) -> Iterator[ClassFold]:
    for number, held_out in enumerate(parts):
        inside = np.isin(labels, held_out)
        yield ClassFold(number, np.flatnonzero(~inside), np.flatnonzero(inside), held_out)


def concatenate_embeddings(embeddings: Sequence[Tensor], normalize: bool = True) -> np.ndarray:
    """Puts the embeddings of several models side by side, `(n, sum of widths)`.

    Args:
        embeddings: Of each model `(n, d)`.
        normalize: Whether each model's, and then the whole, are scaled to unit length.
    """
    if not embeddings:
        raise ValueError("There is nothing to concatenate: no embeddings were given.")
    arrays = [np.asarray(array, dtype=np.float32) for array in embeddings]
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(
            "Every model must embed the same images. "
            f"Received: {', '.join(str(len(array)) for array in arrays)} embeddings"
        )
    if not normalize:
        return np.concatenate(arrays, axis=1)
    joined = np.concatenate([_unit(array) for array in arrays], axis=1)
    return _unit(joined)


def evaluate_folds(
    embeddings: Sequence[Tensor],
    labels: Tensor,
    gallery: Sequence[Tensor] | None = None,
    gallery_labels: Tensor = None,
    evaluate: Callable[..., RetrievalResult] = evaluate_retrieval,
    **options: Any,
) -> CrossValidation:
    """Evaluates the test embeddings of every fold's model, separately and concatenated.

    Args:
        embeddings: Per fold the `(n, d)` test embeddings of its model, same images in the same order.
        labels: `(n,)` labels of the test images.
        gallery: Per fold the gallery embeddings, where the protocol has a gallery of its own.
        gallery_labels: Their labels.
        evaluate: What evaluates one set.
        options: Passed on to it.
    """
    if gallery is not None and len(gallery) != len(embeddings):
        raise ValueError(
            f"Every fold needs its gallery embeddings. Received: {len(embeddings)} folds, {len(gallery)} galleries"
        )
    metric = getattr(options.get("options"), "metric", options.get("metric", "cosine"))
    joined = concatenate_embeddings(embeddings, normalize=metric == "cosine")
    galleries = [None] * len(embeddings) if gallery is None else gallery
    joined_gallery = None if gallery is None else concatenate_embeddings(gallery, normalize=metric == "cosine")
    return CrossValidation(
        separate=tuple(
            evaluate(own, labels, other, gallery_labels, **options)
            for own, other in zip(embeddings, galleries, strict=True)
        ),
        concatenated=evaluate(joined, labels, joined_gallery, gallery_labels, **options),
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)
