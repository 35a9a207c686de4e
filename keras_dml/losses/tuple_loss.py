"""The base class of losses over sampled triplets."""

from typing import Any

import keras
from keras import ops

from keras_dml import mining
from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.functional import count_rows, safe_sqrt, squared_distances


class TupleLoss(EmbeddingLoss):
    """Base of losses over one sampled triplet for each embedding.

    A subclass overrides `triplet_loss`. Embeddings without a positive or without a negative give no triplet; a batch
    without any triplet gives loss 0 and gradient 0 (`check_labels` says why, outside the graph). The usage vector
    counts, for each key, the triplets that have it as positive or negative.

    Args:
        sampler: a name `keras_dml.mining.get` knows, or a `Sampler`.
    """

    def __init__(self, sampler: Any = "distance_weighted", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sampler = mining.get(sampler)

    def triplet_loss(self, anchors: Any, positives: Any, negatives: Any, labels: Any, valid: Any) -> Any:
        """The loss of triplets.

        Args:
            anchors: `(n, d)` embeddings, as are `positives` and `negatives`.
            positives: the same for the positives.
            negatives: the same for the negatives.
            labels: `(n,)` integers, the anchors' classes.
            valid: `(n,)` boolean, which triplets count.

        Returns:
            A scalar, 0 where no triplet is valid.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override `triplet_loss`.")

    def compute_loss(self, batch: EmbeddingBatch) -> tuple[Any, Any]:
        queries = ops.stop_gradient(batch.embeddings)
        keys = queries if batch.own_keys else ops.stop_gradient(batch.keys)
        distances = safe_sqrt(squared_distances(queries, keys))
        triplets = self.sampler(
            distances, batch.positives, batch.negatives, embedding_dim=int(batch.embeddings.shape[1])
        )
        positives = ops.take(batch.keys, triplets.positive, axis=0)
        negatives = ops.take(batch.keys, triplets.negative, axis=0)
        loss = self.triplet_loss(batch.embeddings, positives, negatives, batch.labels, triplets.valid)
        count = ops.shape(keys)[0]
        usage = count_rows(triplets.positive, triplets.valid, count)
        return loss, usage + count_rows(triplets.negative, triplets.valid, count)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sampler": keras.saving.serialize_keras_object(self.sampler)}
