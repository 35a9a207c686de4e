"""What a loss is computed from: queries, keys and which pairs of them are positive or negative."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_dml.backend import integers
from keras_dml.typing import Tensor
from keras_dml.utils.deprecation import renamed_property


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddingBatch:
    """Queries and keys of one loss call, with the pair masks every loss shares.

    Make one with `EmbeddingBatch.create`, which checks what it is given. A wrapper that hands other embeddings to its
    inner loss derives a batch with `dataclasses.replace`.

    Attributes:
        embeddings: the queries, `(n, d)`.
        labels: the queries' classes, `(n,)` integers.
        keys: what the queries are compared with, `(m, d)`; the queries themselves unless keys were given.
        key_labels: `(m,)` integers of the same type as `labels`.
        ids: `(n,)` integers, or None when keys were given without ids: then no pair is a self pair.
        key_ids: `(m,)` integers or None. A negative id marks an empty memory slot.
        keys_are_queries: whether the queries are their own keys.
        pair_scorer: scores pairs and has `pairwise(x, y)`, for losses that ask for one (`needs_pair_scorer`).
        training: whether state may be updated.
    """

    embeddings: Tensor
    labels: Tensor
    keys: Tensor
    key_labels: Tensor
    ids: Tensor | None
    key_ids: Tensor | None
    keys_are_queries: bool
    pair_scorer: Callable[..., Tensor] | None = None
    training: bool = False

    @classmethod
    def create(
        cls,
        labels: Tensor,
        embeddings: Tensor,
        keys: Tensor | None = None,
        key_labels: Tensor | None = None,
        ids: Tensor | None = None,
        key_ids: Tensor | None = None,
        pair_scorer: Callable[..., Tensor] | None = None,
        training: bool = False,
    ) -> "EmbeddingBatch":
        """A batch from tensors, arrays or lists.

        Args:
            labels: `(n,)` or `(n, 1)` integers.
            embeddings: `(n, d)`, the queries.
            keys: `(m, d)`, what the queries are compared with. Without keys the embeddings are their own keys, and no
                item is compared with itself.
            key_labels: `(m,)` or `(m, 1)` integers.
            ids: `(n,)` integers that identify the queries; pairs whose `ids` and `key_ids` agree are never compared.
            key_ids: `(m,)` integers; a negative id marks an empty memory slot.
            pair_scorer: a `PDDMUnit`-like layer, for losses with `needs_pair_scorer`.
            training: whether the loss may update its state.

        Raises:
            ValueError: for labels that are not integer vectors, and for lengths or widths that disagree.
        """
        embeddings = _as_matrix(embeddings, "embeddings")
        labels = _as_vector(labels, "labels")
        _check_length(labels, "labels", embeddings, "embeddings")
        if ids is not None:
            ids = _as_vector(ids, "ids")
            _check_length(ids, "ids", embeddings, "embeddings")
        if keys is None:
            if key_labels is not None or key_ids is not None:
                raise ValueError("`key_labels` and `key_ids` describe `keys`. Received: keys=None. Pass the keys too.")
            if ids is None:
                ids = ops.arange(ops.shape(embeddings)[0], dtype="int32")
            return cls(embeddings, labels, embeddings, labels, ids, ids, True, pair_scorer, training)
        if key_labels is None:
            raise ValueError("`keys` need `key_labels`. Received: key_labels=None.")
        if (ids is None) != (key_ids is None):
            raise ValueError("`ids` and `key_ids` go together: pass both or neither.")
        keys = _as_matrix(keys, "keys")
        if keys.shape[1] != embeddings.shape[1]:
            raise ValueError(
                "`keys` and `embeddings` must have the same width. "
                f"Received: {keys.shape[1]} and {embeddings.shape[1]} dimensions."
            )
        key_labels = _as_vector(key_labels, "key_labels")
        _check_length(key_labels, "key_labels", keys, "keys")
        if labels.dtype != key_labels.dtype:
            labels, key_labels = ops.cast(labels, integers.widest()), ops.cast(key_labels, integers.widest())
        if ids is not None and key_ids is not None:
            key_ids = _as_vector(key_ids, "key_ids")
            _check_length(key_ids, "key_ids", keys, "keys")
            if ids.dtype != key_ids.dtype:
                ids, key_ids = ops.cast(ids, integers.widest()), ops.cast(key_ids, integers.widest())
        return cls(embeddings, labels, keys, key_labels, ids, key_ids, False, pair_scorer, training)

    def cast(self, dtype: str) -> "EmbeddingBatch":
        """The same batch with embeddings and keys of type `dtype`; itself where they are of that type."""
        embeddings = _cast(self.embeddings, dtype)
        # Losses save work where the keys are the very tensor that the queries are.
        keys = embeddings if self.keys_are_queries else _cast(self.keys, dtype)
        if embeddings is self.embeddings and keys is self.keys:
            return self
        return dataclasses.replace(self, embeddings=embeddings, keys=keys)

    own_keys = renamed_property("own_keys", "keys_are_queries")
    similarity = renamed_property("similarity", "pair_scorer")

    @functools.cached_property
    def same_class(self) -> Tensor:
        """`(n, m)` boolean: query and key have the same label (self pairs and empty slots included)."""
        return ops.equal(self.labels[:, None], self.key_labels[None, :])

    @functools.cached_property
    def positives(self) -> Tensor:
        """`(n, m)` boolean: same class, not the same item, not an empty slot."""
        if self.ids is None or self.key_ids is None:
            return self.same_class
        positives = ops.logical_and(self.same_class, ops.not_equal(self.ids[:, None], self.key_ids[None, :]))
        return positives if self.keys_are_queries else ops.logical_and(positives, self.key_ids[None, :] >= 0)

    @functools.cached_property
    def negatives(self) -> Tensor:
        """`(n, m)` boolean: another class, not an empty slot."""
        negatives = ops.logical_not(self.same_class)
        if self.key_ids is None or self.keys_are_queries:
            return negatives
        return ops.logical_and(negatives, self.key_ids[None, :] >= 0)

    @functools.cached_property
    def valid(self) -> Tensor:
        """`(n,)` boolean: the query has a positive and a negative."""
        return ops.logical_and(ops.any(self.positives, axis=1), ops.any(self.negatives, axis=1))


def _cast(values: Tensor, dtype: str) -> Tensor:
    return values if keras.backend.standardize_dtype(values.dtype) == dtype else ops.cast(values, dtype)


def _as_vector(values: Tensor, name: str) -> Tensor:
    """`(n,)` or `(n, 1)` integers as `(n,)` int32, or int64 where int32 would not hold them."""
    values = np.asarray(values) if isinstance(values, list | tuple) else values
    integers.check_width(values, name)
    values = integers.exact(ops.convert_to_tensor(values), name)
    shape = tuple(values.shape)
    if len(shape) == 2 and shape[1] == 1:
        values = ops.squeeze(values, axis=1)
    elif len(shape) != 1:
        raise ValueError(
            f"`{name}` must have shape (n,) or (n, 1). Received: shape={shape}. Pass class numbers, not one-hot rows."
        )
    return values


def _as_matrix(values: Tensor, name: str) -> Tensor:
    values = ops.convert_to_tensor(np.asarray(values) if isinstance(values, list | tuple) else values)
    if len(values.shape) != 2:
        raise ValueError(
            f"`{name}` must have shape (n, d), one embedding per row. Received: shape={tuple(values.shape)}."
        )
    return values


def _check_length(first: Tensor, first_name: str, second: Tensor, second_name: str) -> None:
    n, m = first.shape[0], second.shape[0]
    if n is not None and m is not None and n != m:
        raise ValueError(
            f"`{first_name}` and `{second_name}` must have one row per item each. Received: {n} and {m} rows."
        )
