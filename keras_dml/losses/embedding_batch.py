"""What a loss is computed from: queries, keys and which pairs of them are positive or negative."""

import functools
from collections.abc import Callable
from typing import Any

from keras import ops


class EmbeddingBatch:
    """Queries and keys of one loss call, with the pair masks every loss shares.

    Attributes:
        embeddings: the queries, `(n, d)`.
        labels: the queries' classes, `(n,)` integers.
        keys: what the queries are compared with, `(m, d)`; the queries themselves unless keys were given.
        key_labels: `(m,)` integers of the same type as `labels`.
        ids: `(n,)` integers, or None when keys were given without ids: then no pair is a self pair.
        key_ids: `(m,)` integers or None. A negative id marks an empty memory slot.
        own_keys: whether the queries are their own keys.
        similarity: a callable with `pairwise(x, y)`, for losses that ask for one (`needs_similarity`).
        training: whether state may be updated.
        statistics: scalars a loss reports about itself, by name; filled while the loss is computed.
    """

    def __init__(
        self,
        embeddings: Any,
        labels: Any,
        keys: Any,
        key_labels: Any,
        ids: Any,
        key_ids: Any,
        own_keys: bool,
        similarity: Callable[..., Any] | None = None,
        training: bool = False,
    ) -> None:
        self.embeddings = embeddings
        self.labels = labels
        self.keys = keys
        self.key_labels = key_labels
        self.ids = ids
        self.key_ids = key_ids
        self.own_keys = own_keys
        self.similarity = similarity
        self.training = training
        self.statistics: dict[str, Any] = {}

    @functools.cached_property
    def same_class(self) -> Any:
        """`(n, m)` boolean: query and key have the same label (self pairs and empty slots included)."""
        return ops.equal(self.labels[:, None], self.key_labels[None, :])

    @functools.cached_property
    def positives(self) -> Any:
        """`(n, m)` boolean: same class, not the same item, not an empty slot."""
        if self.key_ids is None:
            return self.same_class
        positives = ops.logical_and(self.same_class, ops.not_equal(self.ids[:, None], self.key_ids[None, :]))
        return positives if self.own_keys else ops.logical_and(positives, self.key_ids[None, :] >= 0)

    @functools.cached_property
    def negatives(self) -> Any:
        """`(n, m)` boolean: another class, not an empty slot."""
        negatives = ops.logical_not(self.same_class)
        if self.key_ids is None or self.own_keys:
            return negatives
        return ops.logical_and(negatives, self.key_ids[None, :] >= 0)
