"""What one pass over the nearest neighbors says about a set of embeddings."""

import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from keras_dml.evaluation.clustering import Clustering
    from keras_dml.evaluation.geometry import Geometry


@dataclasses.dataclass(frozen=True, eq=False)
class RetrievalResult:
    """Retrieval metrics of one set of embeddings, down to every query.

    Every mean is over the queries that have at least one same-class item in the gallery besides themselves
    (`evaluated`); the others, singletons, cannot be answered rightly or wrongly and are counted in `num_singletons`.
    Per-query arrays have one entry per query in the order given, NaN for singletons (0 in `first_match`).
    All arrays are read-only.

    Args:
        labels: `(n,)` labels of the queries.
        gallery_labels: `(m,)` labels of the gallery (the same array where the queries are their own gallery).
        ks: The ranks asked for, ascending.
        depth: Number of neighbors looked at per query. Nothing beyond it counts in `mrr` and `map_at_1000`.
        neighbors: `(n, kept)` int32 rows of the gallery, nearest first; -1 where the gallery is exhausted.
        distances: `(n, kept)` float32 Euclidean distances to them (of the normalized vectors where the metric is
            cosine; cosine similarity = 1 - distance ** 2 / 2); infinite where the gallery is exhausted.
        relevant: `(n,)` int64, R: same-class items in the gallery, the query itself not counted.
        class_sizes: `(n,)` int64, R and the query itself where it is part of the gallery.
        first_match: `(n,)` int64 rank of the nearest same-class item, from 1; 0 where there is none within `depth`.
        per_query: Name of each other metric -> `(n,)` float64.
        metric: "cosine" or "euclidean".
        embeddings: `(n, d)` float32 queries, from which the clustering metrics are computed on first access.
        clusters: Number of k-means clusters; None stands for the number of query classes.
        seed: Seed of k-means.
    """

    labels: np.ndarray
    gallery_labels: np.ndarray
    ks: tuple[int, ...]
    depth: int
    neighbors: np.ndarray
    distances: np.ndarray
    relevant: np.ndarray
    class_sizes: np.ndarray
    first_match: np.ndarray
    per_query: Mapping[str, np.ndarray]
    metric: str
    embeddings: np.ndarray = dataclasses.field(repr=False)
    clusters: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_query", MappingProxyType(dict(self.per_query)))
        own = [getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "embeddings"]
        for array in [*own, *self.per_query.values()]:
            if isinstance(array, np.ndarray):
                array.flags.writeable = False

    def __repr__(self) -> str:
        recalls = ", ".join(f"recall@{k}={self.recall[k]:.4f}" for k in self.ks)
        return (
            f"RetrievalResult({recalls}, map@r={self.map_at_r:.4f}, queries={len(self.labels)}, "
            f"gallery={len(self.gallery_labels)}, singletons={self.num_singletons})"
        )

    @functools.cached_property
    def evaluated(self) -> np.ndarray:
        """`(n,)` bool: queries with at least one same-class item to find."""
        return self.relevant > 0

    @property
    def num_singletons(self) -> int:
        """Queries left out of every mean, since the gallery holds no other item of their class."""
        return int(np.count_nonzero(~self.evaluated))

    @functools.cached_property
    def recall(self) -> Mapping[int, float]:
        """k -> share of queries with a same-class item among their k nearest, for every k of `ks`."""
        return MappingProxyType({k: self.recall_at(k) for k in self.ks})

    @functools.cached_property
    def precision(self) -> Mapping[int, float]:
        """k -> mean share of same-class items among the k nearest (a gallery with fewer items still divides by k)."""
        return MappingProxyType({k: self.mean(f"precision@{k}") for k in self.ks})

    @property
    def map_at_r(self) -> float:
        """Mean average precision over the R nearest, R the number of items to find.

        "A Metric Learning Reality Check" (ECCV 2020), section 3.2: `1/R sum_{i<=R} P(i) rel(i)`.
        """
        return self.mean("map@r")

    @property
    def r_precision(self) -> float:
        """Mean share of same-class items among the R nearest."""
        return self.mean("r_precision")

    @property
    def map_at_1000(self) -> float:
        """Mean over queries of `1/R sum_{i<=1000} P(i) rel(i)`; a perfect ranking scores 1 while R <= 1000."""
        return self.mean("map@1000")

    @property
    def map_at_1000_reference(self) -> float:
        """`map_at_1000` with the class size including the query as denominator, as the DAS authors' code has it.

        A perfect ranking scores R / (R + 1), so below 1. (That code drops the first neighbor as the query itself; here
        it is dropped by id.) Equal to `map_at_1000` where the queries are not part of the gallery.
        """
        return self.mean("map@1000_reference")

    @property
    def mrr(self) -> float:
        """Mean reciprocal rank of the nearest same-class item; 0 for a query with none within `depth`."""
        return self.mean("mrr")

    @functools.cached_property
    def clustering(self) -> "Clustering":
        """K-means metrics of the query embeddings, computed on first access."""
        from keras_dml.evaluation.clustering import cluster_metrics

        return cluster_metrics(
            self.embeddings, self.labels, clusters=self.clusters, seed=self.seed, normalize=self.metric == "cosine"
        )

    @property
    def nmi(self) -> float:
        """Normalized mutual information of k-means clusters and classes (arithmetic mean of the entropies)."""
        return self.clustering.nmi

    @property
    def ami(self) -> float:
        """Adjusted mutual information of k-means clusters and classes."""
        return self.clustering.ami

    @property
    def f1(self) -> float:
        """Pairwise F1 of k-means clusters and classes."""
        return self.clustering.f1

    @functools.cached_property
    def geometry(self) -> "Geometry":
        """Distances within and between classes and the spectral decay of the queries, computed on first access."""
        from keras_dml.evaluation.geometry import embedding_geometry

        return embedding_geometry(self.embeddings, self.labels, normalize=self.metric == "cosine")

    def recall_at(self, k: int) -> float:
        """Recall@k for any k up to `depth`, or any at all if `depth` covers the gallery."""
        return self._mean_of(self.query_values(f"recall@{k}"))

    def mean(self, name: str) -> float:
        """Mean of a per-query metric over the evaluated queries; NaN without any.

        Args:
            name: A key of `per_query`, or "recall@k" with any k up to `depth`.
        """
        return self._mean_of(self.query_values(name))

    def query_values(self, name: str) -> np.ndarray:
        """`(n,)` float64 values of one metric, NaN for singletons."""
        if name in self.per_query:
            return self.per_query[name]
        kind, _, rank = name.partition("@")
        if kind == "recall" and rank.isdigit():
            k = int(rank)
            if k < 1:
                raise ValueError(f"`k` must be positive. Received: k={k}")
            if k > self.depth and self.depth < len(self.gallery_labels):
                raise ValueError(
                    f"Only the {self.depth} nearest neighbors were looked at. Received: k={k}. "
                    f"Evaluate again with ks=(..., {k})"
                )
            found = (self.first_match > 0) & (self.first_match <= k)
            return np.where(self.evaluated, found, np.nan)
        from keras_dml.utils.suggestions import unknown_name

        raise ValueError(unknown_name("metric", name, [*self.per_query, *(f"recall@{k}" for k in self.ks)]))

    def _mean_of(self, values: np.ndarray) -> float:
        return float(np.mean(values[self.evaluated])) if self.evaluated.any() else float("nan")

    def metric_names(self) -> tuple[str, ...]:
        """Names of all per-query metrics, as `to_dict` orders them."""
        return (*(f"recall@{k}" for k in self.ks), *self.per_query)

    def per_class(self) -> dict[str, np.ndarray]:
        """Means per query class: "class" and "queries" and one `(classes,)` array per metric.

        A class whose queries are all singletons has NaN.
        """
        classes, codes = np.unique(self.labels, return_inverse=True)
        counts = np.bincount(codes[self.evaluated], minlength=len(classes))
        table: dict[str, np.ndarray] = {"class": classes, "queries": np.bincount(codes, minlength=len(classes))}
        for name in self.metric_names():
            sums = np.bincount(
                codes[self.evaluated], weights=self.query_values(name)[self.evaluated], minlength=len(classes)
            )
            table[name] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        return table

    def confidence_interval(
        self, name: str, level: float = 0.95, samples: int = 1000, seed: int = 0
    ) -> tuple[float, float]:
        """Percentile bootstrap over classes: how far a metric would move with other test classes of the same kind.

        Whole classes are drawn with replacement, as many as there are, since queries of one class are not independent.

        Args:
            name: A per-query metric, as in `mean`.
            level: Share of resampled means inside the interval.
            samples: Number of resamples.
            seed: Seed of the draws.

        Returns:
            Lower and upper end; NaN where no query can be evaluated.
        """
        if not 0 < level < 1:
            raise ValueError(f"`level` must lie between 0 and 1. Received: level={level}")
        if samples < 1:
            raise ValueError(f"`samples` must be positive. Received: samples={samples}")
        values = self.query_values(name)
        if not self.evaluated.any():
            return float("nan"), float("nan")
        _, codes = np.unique(self.labels[self.evaluated], return_inverse=True)
        counts = np.bincount(codes).astype(np.float64)
        sums = np.bincount(codes, weights=values[self.evaluated])
        random = np.random.default_rng(seed)
        means = np.empty(samples)
        # One resample at a time: a table of all draws would be samples x classes large.
        for sample in range(samples):
            draws = np.bincount(random.integers(len(sums), size=len(sums)), minlength=len(sums))
            means[sample] = (draws @ sums) / (draws @ counts)
        return float(np.quantile(means, (1 - level) / 2)), float(np.quantile(means, (1 + level) / 2))

    def to_dict(self, clustering: bool = False, geometry: bool = False) -> dict[str, Any]:
        """The means as plain numbers by name, ready for JSON: "recall@1", "map@r", "nmi", ...

        Args:
            clustering: True adds "nmi", "ami" and "f1", which runs k-means.
            geometry: True adds "intra_class_distance", "inter_class_distance", "intra_over_inter" and
                "spectral_decay".
        """
        values: dict[str, Any] = {name: self.mean(name) for name in self.metric_names()}
        if clustering:
            values |= {"nmi": self.nmi, "ami": self.ami, "f1": self.f1}
        if geometry:
            values |= dataclasses.asdict(self.geometry)
        return values
