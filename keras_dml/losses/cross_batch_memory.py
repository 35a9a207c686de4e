"""Cross-batch memory."""

from typing import Any

import keras
from keras import ops

from keras_dml.backend import integers
from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.loss_output import LossOutput
from keras_dml.losses.registry import register_loss
from keras_dml.losses.wrapper_loss import WrapperLoss
from keras_dml.typing import Tensor


@register_loss("cross_batch_memory")
@keras.saving.register_keras_serializable(package="keras_dml")
class CrossBatchMemory(WrapperLoss):
    """Compares each batch with the embeddings of past batches, by any loss of pairs (XBM).

    A ring buffer of fixed size holds the newest embeddings. In training, the batch is put into the buffer first; then
    the inner loss is computed with the batch as queries and the buffer as keys, an item never being compared with
    itself. Gradients reach the queries only, never the buffer. Outside training the buffer is neither read nor
    written, and the loss is that of the batch alone: held-out classes have nothing to do with remembered ones.

    `key_counts` cover the rows of the current batch. Labels are remembered as the widest integers of the backend.

    Args:
        loss: a loss of pairs or sampled triplets: what `keras_dml.losses.get` takes.
        memory_size: how many embeddings are remembered, at least a batch (with DAS, real and produced ones).

    Raises:
        ValueError: for a loss that does not compare pairs, a batch that does not fit into the memory, or keys given
            besides.

    Reference: Wang et al., "Cross-batch memory for embedding learning", CVPR 2020, algorithm 1 (which adds the loss
    of the batch alone to that with the memory; here the batch counts as part of the memory).
    """

    def __init__(self, loss: Any, memory_size: int, **kwargs: Any) -> None:
        super().__init__(loss, **kwargs)
        if memory_size < 1:
            raise ValueError(f"`memory_size` must be positive. Received: memory_size={memory_size}")
        if not self.loss.uses_keys:
            raise ValueError(
                "A cross-batch memory needs a loss that compares embeddings with one another. "
                f"Received: {type(self.loss).__name__}."
            )
        self.memory_size = memory_size
        self.normalized_inputs = self.loss.normalized_inputs

    def add_weights(self, embedding_dim: int) -> None:
        super().add_weights(embedding_dim)
        self.memory = self._state("memory", (self.memory_size, embedding_dim), "float32")
        self.memory_labels = self._state("memory_labels", (self.memory_size,), integers.widest())
        self.position = self._state("position", (), "int32")
        self.filled = self._state("filled", (), "int32")

    def _state(self, name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
        return self.add_weight(name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False)

    def check_labels(self, labels: Tensor) -> None:
        # Positives and negatives may come from other batches.
        pass

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        if not batch.keys_are_queries:
            raise ValueError("A cross-batch memory brings its own keys. Received: `keys`. Leave them out.")
        count = batch.embeddings.shape[0]
        if count is not None and count > self.memory_size:
            raise ValueError(
                "`memory_size` must be at least the number of embeddings in a batch (with DAS, real and produced "
                f"ones). Received: memory_size={self.memory_size} and {count} embeddings."
            )
        if not batch.training:
            return self.loss.compute(batch)
        count = ops.shape(batch.embeddings)[0]
        slots = ops.mod(self.position + ops.arange(count, dtype="int32"), self.memory_size)
        rows = slots[:, None]
        newest = ops.cast(ops.stop_gradient(batch.embeddings), self.memory.dtype)
        memory = ops.scatter_update(self.memory, rows, newest)
        labels = ops.scatter_update(self.memory_labels, rows, ops.cast(batch.labels, integers.widest()))
        filled = ops.minimum(self.filled + count, self.memory_size)
        self.memory.assign(memory)
        self.memory_labels.assign(labels)
        self.filled.assign(filled)
        self.position.assign(ops.mod(self.position + count, self.memory_size))
        # An item's id is its slot; items of one id in the batch have the slot of the first of them.
        key_ids = ops.arange(self.memory_size, dtype="int32")
        key_ids = ops.where(key_ids < filled, key_ids, -1)
        # Embeddings that are their own keys have ids.
        assert batch.ids is not None
        same = ops.equal(batch.ids[:, None], batch.ids[None, :])
        ids = ops.take(slots, ops.argmax(ops.cast(same, "int32"), axis=1), axis=0)
        key_ids = ops.scatter_update(key_ids, rows, ids)
        output = self.loss.compute(
            EmbeddingBatch.create(
                batch.labels,
                batch.embeddings,
                keys=ops.cast(memory, batch.embeddings.dtype),
                key_labels=labels,
                ids=ids,
                key_ids=key_ids,
                pair_scorer=batch.pair_scorer,
                training=True,
            )
        )
        counts = output.key_counts
        return output._replace(key_counts=None if counts is None else ops.take(counts, slots, axis=0))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "memory_size": self.memory_size}
