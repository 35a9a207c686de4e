"""Mean average precision on Revisited Oxford and Paris."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from keras_dml.evaluation.neighbors import NeighborSearch
from keras_dml.typing import Tensor

SETUPS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
"""For each setup, which lists are right answers, and which are left out of the ranking."""
LISTS = ("easy", "hard", "junk")


@dataclasses.dataclass(frozen=True, eq=False)
class RevisitedScores:
    """One setup's figures, from 0 to 1. Queries without a right answer are NaN and left out of the means.

    Args:
        map: Mean average precision, mAP.
        precision: Mean precision at k by k, mP@k.
        average_precisions: `(n,)` of each query.
        precisions: `(n, len(ks))` of each query.
    """

    map: float
    precision: Mapping[int, float]
    average_precisions: np.ndarray
    precisions: np.ndarray


def revisited_map(
    queries: Tensor,
    gallery: Tensor,
    truth: Sequence[Mapping[str, ArrayLike]],
    ks: Sequence[int] = (1, 5, 10),
    metric: str = "cosine",
) -> dict[str, RevisitedScores]:
    """Ranks the gallery for every query and measures mAP and mP@k of the easy, medium and hard setup.

    Right answers are the easy ones, easy and hard ones, or the hard ones; what else is listed for a query is taken
    out of its ranking. As in the authors' code (https://github.com/filipradenovic/revisitop, python/evaluate.py), the
    average precision is the area under the precision-recall curve by trapezoids, and the precision at k is taken at
    the last right answer where that stands before k.

    Args:
        queries: `(n, d)` embeddings of the queries.
        gallery: `(m, d)` embeddings of the gallery; equal distances are ordered by row.
        truth: For each query, rows of the gallery under "easy", "hard" and "junk", as `gnd` in the annotations; see
            `keras_dml.data.load_revisited`.
        ks: Ranks k for mP@k.
        metric: "cosine" or "euclidean".

    Returns:
        Scores by setup: "easy", "medium", "hard".

    Raises:
        ValueError: Numbers do not fit each other, or a row is not in the gallery.

    Reference: Radenovic et al., CVPR 2018.

    Example:

        >>> oxford = dml.data.load_revisited("roxford5k", "/data/roxford5k")
        >>> scores = revisited_map(encoder.embed(oxford.queries), encoder.embed(oxford.gallery), oxford.truth)
        >>> scores["medium"].map, scores["hard"].precision[10]
    """
    ks = tuple(int(k) for k in ks)
    if any(k < 1 for k in ks):
        raise ValueError(f"`ks` must be positive. Received: ks={ks}")
    search = NeighborSearch(queries, gallery, metric=metric)
    if len(truth) != search.num_queries:
        raise ValueError(
            f"`truth` must have one entry for each query. Received: {len(truth)} entries, {search.num_queries} queries"
        )
    listed = [_lists(number, entry, search.num_gallery) for number, entry in enumerate(truth)]
    precisions = {setup: np.full((len(truth), 1 + len(ks)), np.nan) for setup in SETUPS}
    places: np.ndarray = np.zeros(search.num_gallery, np.int64)
    for rows, neighbors, _ in search.blocks(search.num_gallery, accurate=1):
        for query, ranking in zip(range(rows.start, rows.stop), neighbors, strict=True):
            places[ranking] = np.arange(len(ranking))
            for setup, (right, ignored) in SETUPS.items():
                answers = np.concatenate([listed[query][name] for name in right])
                if len(answers):
                    before = np.unique(places[np.concatenate([listed[query][name] for name in ignored])])
                    found = np.unique(places[answers])
                    found = found - np.searchsorted(before, found)
                    precisions[setup][query] = [_average_precision(found, len(answers)), *_precisions(found, ks)]
    return {setup: _scores(values, ks) for setup, values in precisions.items()}


def _lists(number: int, entry: Mapping[str, ArrayLike], count: int) -> dict[str, np.ndarray]:
    found = {}
    for name in LISTS:
        rows = np.asarray(entry.get(name, ()))
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise ValueError(f"`truth[{number}][{name!r}]` must be (k,) integers. Received: {rows}")
        found[name] = rows.astype(np.int64)
    everything = np.concatenate(list(found.values()))
    outside = everything[(everything < 0) | (everything >= count)]
    if len(outside):
        raise ValueError(
            f"`truth[{number}]` must hold rows of the gallery, from 0 to {count - 1}. Received: {outside[0]}. Number "
            "the gallery from 0, in the order of its embeddings"
        )
    return found


def _average_precision(places: np.ndarray, answers: int) -> float:
    """From the sorted places of all right answers, counted from 0 without what is left out; and how many are listed."""
    number = np.arange(len(places))
    # The curve starts at precision 1.
    before = np.where(places == 0, 1.0, number / np.maximum(places, 1))
    return float(np.sum((before + (number + 1) / (places + 1)) / 2) / answers)


def _precisions(places: np.ndarray, ks: Sequence[int]) -> list[float]:
    last = int(places[-1]) + 1
    return [float(np.count_nonzero(places < min(last, k)) / min(last, k)) for k in ks]


def _scores(values: np.ndarray, ks: Sequence[int]) -> RevisitedScores:
    judged = values[~np.isnan(values[:, 0])]
    means = judged.mean(axis=0) if len(judged) else np.full(values.shape[1], np.nan)
    return RevisitedScores(
        float(means[0]),
        {k: float(mean) for k, mean in zip(ks, means[1:], strict=True)},
        values[:, 0],
        values[:, 1:],
    )
