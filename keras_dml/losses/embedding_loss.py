"""The base class of every loss."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dml.backend import state
from keras_dml.losses.embedding_batch import EmbeddingBatch


def _as_vector(values: Any, name: str) -> Any:
    """`(n,)` or `(n, 1)` integers as `(n,)` int32, or int64 where int32 would not hold them."""
    values = ops.convert_to_tensor(values)
    dtype = keras.backend.standardize_dtype(values.dtype)
    if "int" not in dtype:
        raise ValueError(f"`{name}` must be integers. Received: dtype={dtype}. Cast the class numbers to int32.")
    shape = tuple(values.shape)
    if len(shape) == 2 and shape[1] == 1:
        values = ops.squeeze(values, axis=1)
    elif len(shape) != 1:
        raise ValueError(
            f"`{name}` must have shape (n,) or (n, 1). Received: shape={shape}. Pass class numbers, not one-hot rows."
        )
    wide = dtype in ("int64", "uint64", "uint32")
    return ops.cast(values, "int64" if wide else "int32")


def _check_matrix(values: Any, name: str) -> None:
    if len(values.shape) != 2:
        raise ValueError(
            f"`{name}` must have shape (n, d), one embedding per row. Received: shape={tuple(values.shape)}."
        )


def _check_length(first: Any, first_name: str, second: Any, second_name: str) -> None:
    n, m = first.shape[0], second.shape[0]
    if n is not None and m is not None and n != m:
        raise ValueError(
            f"`{first_name}` and `{second_name}` must have one row per item each. Received: {n} and {m} rows."
        )


class EmbeddingLoss(keras.layers.Layer):
    """Base of all losses: a Keras layer called as `loss(labels, embeddings)`, returning a float32 scalar.

    A subclass overrides `compute_loss(batch)`, and `add_weights(embedding_dim)` if it has weights. Being a layer,
    a loss has weights, is built from the embedding width alone (`loss.build((None,), (None, d))`), and is saved and
    restored with the model that holds it. Computation is in float32 whatever the global dtype policy: inputs in
    half precision are cast on entry.

    Call arguments:
        labels: `(n,)` or `(n, 1)` integers.
        embeddings: `(n, d)`, the queries.
        keys: `(m, d)`, what the queries are compared with. Without keys the embeddings are their own keys, and no
            item is compared with itself.
        key_labels: `(m,)` or `(m, 1)` integers.
        ids: `(n,)` integers that identify the queries; pairs whose `ids` and `key_ids` agree are never compared.
        key_ids: `(m,)` integers; a negative id marks an empty memory slot.
        similarity: a `PDDMUnit`-like layer, for losses with `needs_similarity`.
        training: whether the loss may update its state (memories, running means). A loss called outside a model
            counts as not training unless told.
        return_usage: also return `usage`, `(m,)` float32: how often each key was part of an active or sampled
            tuple, or None where that has no meaning (proxies).
        return_statistics: also return a dict of scalars the loss reports about itself (empty for most losses).

    Raises:
        ValueError: for labels that are not integer vectors, lengths or widths that disagree, a missing similarity.
    """

    needs_similarity: bool = False
    """Whether the loss has to be given a `similarity` layer."""

    uses_keys: bool = True
    """Whether embeddings are compared with one another (or keys), rather than with proxies."""

    normalized_inputs: bool | None = True
    """Whether the method expects L2-normalised embeddings; None where either will do."""

    def __init__(
        self,
        parameter_learning_rate: float | None = None,
        name: str | None = None,
        dtype: Any = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, dtype=dtype, **kwargs)
        if self.compute_dtype not in ("float32", "float64"):
            raise ValueError(
                f"`dtype` of a loss must be float32 or float64. Received: dtype={self.compute_dtype}. Leave it out: "
                "a loss takes half-precision embeddings and computes in float32."
            )
        self.parameter_learning_rate = parameter_learning_rate

    def compute_loss(self, batch: EmbeddingBatch) -> tuple[Any, Any]:
        """Return `(loss, usage)`: a scalar, and `(m,)` counts of how often each key was used, or None."""
        raise NotImplementedError(f"{type(self).__name__} does not override `compute_loss`.")

    def add_weights(self, embedding_dim: int) -> None:
        """Create the loss's weights; called once, with the embedding width."""

    def check_labels(self, labels: Any) -> None:
        """Raise if the loss can learn nothing from a batch with these labels, or would go wrong on it.

        For concrete labels, such as the first batch's; traced ones pass. Inside a graph the loss does not look at
        values: a batch without a valid tuple gives loss 0 and gradient 0 there.

        Args:
            labels: `(n,)` or `(n, 1)` integers, the labels of one batch.

        Raises:
            ValueError: for a loss of pairs, if all labels differ or all are the same; for a loss with a weight for
                each class, if a label has none.
        """
        if self.uses_keys:
            self._check_pairs(labels)

    def _check_pairs(self, labels: Any, need_negatives: bool = True) -> None:
        values = state.concrete(labels)
        if values is None or values.size == 0:
            return
        classes = len(np.unique(values))
        if classes == values.size:
            raise ValueError(
                f"{type(self).__name__} needs batches with at least two samples of a class, or there are no positive "
                f"pairs. Received: {values.size} samples of {classes} classes. Draw several samples of each class, "
                "for example with keras_dml.data's P x K batches."
            )
        if need_negatives and classes == 1:
            raise ValueError(
                f"{type(self).__name__} needs batches with at least two classes, or there are no negative pairs. "
                f"Received: {values.size} samples of 1 class. Shuffle, or draw several classes into each batch."
            )

    def build(self, labels_shape: Any, embeddings_shape: Any) -> None:
        if getattr(self, "built", False):
            return
        embedding_dim = embeddings_shape[-1]
        if embedding_dim is None:
            raise ValueError(
                "The width of the embeddings must be known to build a loss. "
                f"Received: shape={tuple(embeddings_shape)}. Give the encoder's last layer a fixed number of units."
            )
        self.add_weights(int(embedding_dim))
        self.built = True

    def __call__(self, labels: Any, embeddings: Any, **kwargs: Any) -> Any:
        # Keras takes tensors and arrays only; plain lists are handy in a notebook.
        if isinstance(labels, list | tuple):
            labels = np.asarray(labels)
        if isinstance(embeddings, list | tuple):
            embeddings = np.asarray(embeddings)
        return super().__call__(labels, embeddings, **kwargs)

    def call(
        self,
        labels: Any,
        embeddings: Any,
        keys: Any = None,
        key_labels: Any = None,
        ids: Any = None,
        key_ids: Any = None,
        similarity: Callable[..., Any] | None = None,
        training: bool | None = None,
        return_usage: bool = False,
        return_statistics: bool = False,
    ) -> Any:
        batch = self._make_batch(labels, embeddings, keys, key_labels, ids, key_ids, similarity, bool(training))
        loss, usage = self.compute_loss(batch)
        results = [loss, *([usage] if return_usage else []), *([batch.statistics] if return_statistics else [])]
        return loss if len(results) == 1 else tuple(results)

    def _make_batch(
        self,
        labels: Any,
        embeddings: Any,
        keys: Any,
        key_labels: Any,
        ids: Any,
        key_ids: Any,
        similarity: Callable[..., Any] | None,
        training: bool,
    ) -> EmbeddingBatch:
        if self.needs_similarity and similarity is None:
            raise ValueError(
                f"{type(self).__name__} needs a `similarity` layer. Received: similarity=None. "
                "Pass one, for example MetricLearner(..., similarity=PDDMUnit())."
            )
        _check_matrix(embeddings, "embeddings")
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
            return EmbeddingBatch(embeddings, labels, embeddings, labels, ids, ids, True, similarity, training)
        if key_labels is None:
            raise ValueError("`keys` need `key_labels`. Received: key_labels=None.")
        if (ids is None) != (key_ids is None):
            raise ValueError("`ids` and `key_ids` go together: pass both or neither.")
        _check_matrix(keys, "keys")
        if keys.shape[1] != embeddings.shape[1]:
            raise ValueError(
                "`keys` and `embeddings` must have the same width. "
                f"Received: {keys.shape[1]} and {embeddings.shape[1]} dimensions."
            )
        key_labels = _as_vector(key_labels, "key_labels")
        _check_length(key_labels, "key_labels", keys, "keys")
        if labels.dtype != key_labels.dtype:
            labels, key_labels = ops.cast(labels, "int64"), ops.cast(key_labels, "int64")
        if key_ids is not None:
            key_ids = _as_vector(key_ids, "key_ids")
            _check_length(key_ids, "key_ids", keys, "keys")
            if ids.dtype != key_ids.dtype:
                ids, key_ids = ops.cast(ids, "int64"), ops.cast(key_ids, "int64")
        return EmbeddingBatch(embeddings, labels, keys, key_labels, ids, key_ids, False, similarity, training)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "parameter_learning_rate": self.parameter_learning_rate}
