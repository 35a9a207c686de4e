"""The metrics of UnED: Recall@1 and mMP@5 of each domain in the merged gallery, and their means."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_dml.evaluation.retrieval import RetrievalOptions, evaluate_retrieval
from keras_dml.typing import Tensor

if TYPE_CHECKING:
    from keras_dml.data import UnEDBenchmark


class UnEDScores(NamedTuple):
    """Scores between 0 and 1."""

    recall_at_1: dict[str, float]
    """By domain: the share of queries whose nearest image has one of their classes."""
    mmp_at_k: dict[str, float]
    """By domain: the mean over queries of `(right among the m nearest) / m`, m the lesser of k and the images that are
    right."""

    @property
    def mean_recall_at_1(self) -> float:
        """Every domain counts alike."""
        return float(np.mean(list(self.recall_at_1.values())))

    @property
    def mean_mmp_at_k(self) -> float:
        """Every domain counts alike; the benchmark's headline with k = 5."""
        return float(np.mean(list(self.mmp_at_k.values())))


def uned_scores(benchmark: "UnEDBenchmark", queries: Tensor, gallery: Tensor, k: int = 5) -> UnEDScores:
    """Ranks the merged gallery for every query by cosine and scores each domain. A query never finds itself.

    Args:
        benchmark: What `keras_dml.data.load_uned` gives.
        queries: `(n, d)` embeddings of its queries.
        gallery: `(m, d)` embeddings of its gallery.
        k: Neighbors that mMP looks at, at most.

    Raises:
        ValueError: A query whose classes have no other image in the gallery, and embeddings that do not fit.

    Reference: Ypsilantis et al., ICCV 2023, section 5 (mMP@5), as in the authors' `knn_utils.py`.
    """
    classes, ids, own_ids = benchmark.query_classes, benchmark.gallery.ids, benchmark.queries.ids
    labels = benchmark.gallery.labels
    # Ranking needs a label for each query; which one does not matter.
    first = np.array([right[0] for right in classes])
    options = RetrievalOptions(ids=list(own_ids), gallery_ids=list(ids))
    found = evaluate_retrieval(queries, first, gallery, labels, ks=(1, k), options=options).neighbors[:, :k]
    counts = np.bincount(labels)
    known = dict(zip(ids, labels.tolist(), strict=True))
    recalls: dict[str, list[float]] = {name: [] for name in benchmark.domains}
    precisions: dict[str, list[float]] = {name: [] for name in benchmark.domains}
    for row, right in enumerate(classes):
        others = int(counts[right].sum()) - (known.get(own_ids[row]) in right)
        if others < 1:
            raise ValueError(f"The query {own_ids[row]!r} has no other image of its classes in the gallery")
        hits = np.isin(labels[found[row]], right)
        domain = benchmark.domains[benchmark.queries.labels[row]]
        recalls[domain].append(float(hits[0]))
        precisions[domain].append(float(hits[: min(k, others)].sum()) / min(k, others))
    means = [{name: float(np.mean(values)) for name, values in each.items()} for each in (recalls, precisions)]
    return UnEDScores(*means)
