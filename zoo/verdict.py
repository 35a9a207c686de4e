"""What an experiment on somebody's own images comes to, in words."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_dml.evaluation import RetrievalOptions, RetrievalResult, evaluate_retrieval
from zoo.recipe import Recipe
from zoo.retrieval_picture import retrieval_picture
from zoo.rivals import backbone_features, without_head
from zoo.runs import read_embeddings

if TYPE_CHECKING:
    from keras_dml.data import Benchmark, Split
    from zoo.experiment import Experiment

RESAMPLED = 2000
"""Resamplings of a bootstrap."""
METRICS = {"recall@1": "Recall@1", "map@r": "MAP@R"}
CONFUSED = 5
"""Pairs of classes that are named, and shown."""
MOST_UNEVEN = 5
"""Largest class over smallest above which classes are called uneven."""


def verdict(experiment: "Experiment", benchmark: "Benchmark") -> str:
    """How much better than the untouched backbone the exported encoder is, and what it confuses.

    Draws `confused.png` into the experiment folder.

    Args:
        experiment: Whose first run of the exported arm is taken; it was chosen without the test classes.
        benchmark: The data.
    """
    recipe = without_head(experiment.recipe)
    files = experiment.exported
    metric = experiment.recipe.arm(experiment.recipe.exported).chosen_metric
    lines = [f"Chosen on held-out training classes, and exported: {experiment.recipe.exported}."]
    test, gallery, known, train = benchmark.test, benchmark.gallery, benchmark.known, benchmark.train
    ours = _search(test, gallery, files.test_embeddings, files.gallery_embeddings, metric)
    theirs = _bare(recipe, test, gallery)
    lines.append(f"On {test.num_classes} classes that training has not seen ({len(test)} photos):")
    lines += _differences(ours, theirs, test.labels)
    if known is not None:
        ours_known = _search(known, train, files.known_embeddings, files.train_embeddings, metric)
        classes = len(np.unique(known.labels))
        lines.append(f"On {len(known)} new photos of {classes} known classes, searched among the training photos:")
        lines += _differences(ours_known, _bare(recipe, known, train), known.labels)
    lines += _confusions(experiment, benchmark, ours)
    sizes = np.bincount(benchmark.train.labels)
    sizes = sizes[sizes > 0]
    if sizes.max() > MOST_UNEVEN * sizes.min():
        lines.append(
            f"Training classes have {sizes.min()} to {sizes.max()} photos; every batch draws classes evenly, so that "
            "small ones count as much as large ones."
        )
    return "\n".join(lines)


def _search(
    query: "Split", gallery: "Split | None", saved: pathlib.Path, saved_gallery: pathlib.Path, metric: str
) -> RetrievalResult:
    """Retrieval with the embeddings that a run has saved."""
    options = RetrievalOptions(metric=metric)
    vectors = read_embeddings(saved).vectors
    if gallery is None:
        return evaluate_retrieval(vectors, query.labels, ks=(1,), options=options)
    others = read_embeddings(saved_gallery).vectors
    return evaluate_retrieval(vectors, query.labels, others, gallery.labels, ks=(1,), options=options)


def _bare(recipe: Recipe, query: "Split", gallery: "Split | None") -> RetrievalResult:
    """Retrieval with the features of the untouched backbone."""
    vectors = backbone_features(recipe, query)
    if gallery is None:
        return evaluate_retrieval(vectors, query.labels, ks=(1,))
    return evaluate_retrieval(vectors, query.labels, backbone_features(recipe, gallery), gallery.labels, ks=(1,))


def interval(differences: np.ndarray, groups: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean of the differences of all queries, and its 95 % interval by a bootstrap over whole groups.

    Args:
        differences: `(n,)`; NaN for what was not measured.
        groups: `(n,)` integers: photos of a class are alike, so classes are drawn and not photos.
        seed: Of the bootstrap.
    """
    valid = np.isfinite(differences)
    values, rows = differences[valid], np.unique(groups[valid], return_inverse=True)[1]
    sums, counts = np.bincount(rows, values), np.bincount(rows)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLED, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def _differences(ours: RetrievalResult, theirs: RetrievalResult, labels: np.ndarray) -> list[str]:
    lines = []
    for name, title in METRICS.items():
        one, other = _per_query(ours, name), _per_query(theirs, name)
        mean, low, high = (100 * value for value in interval(one - other, labels))
        words = "better" if low > 0 else "worse" if high < 0 else "no clear difference"
        lines.append(
            f"  {title} {100 * np.nanmean(one):.1f}, the untouched backbone {100 * np.nanmean(other):.1f}: "
            f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}], {words}."
        )
    return lines


def _per_query(result: RetrievalResult, name: str) -> np.ndarray:
    if name == "recall@1":
        return np.where(result.evaluated, (result.first_match == 1).astype(float), np.nan)
    return np.asarray(result.per_query[name])


def _confusions(experiment: "Experiment", benchmark: "Benchmark", result: RetrievalResult) -> list[str]:
    """The pairs of unseen classes whose photos are most often nearest to each other; they are drawn, too."""
    first = result.gallery_labels[result.neighbors[:, 0]]
    wrong = np.flatnonzero(result.evaluated & (first != result.labels))
    if not len(wrong) or benchmark.gallery is not None:
        return []
    pairs = np.sort(np.stack([result.labels[wrong], first[wrong]], axis=1), axis=1)
    known, rows, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    rows = rows.ravel()
    most = np.argsort(-counts, kind="stable")[:CONFUSED]
    names = benchmark.test.class_names
    told = ", ".join(f"{names[known[pair][0]]} and {names[known[pair][1]]} ({counts[pair]})" for pair in most)
    queries: Sequence[int] = [int(wrong[np.flatnonzero(rows == pair)[0]]) for pair in most]
    title = "Photos whose nearest is of another class, from the most confused classes"
    path = experiment.files.confused
    retrieval_picture(path, benchmark.test, queries, result.neighbors[queries][:, :8], None, title)
    return [f"Most often confused: {told}. See {path}."]
