"""The base class of losses over sampled triplets."""

from typing import Any, ClassVar

import keras
from keras import ops

from keras_dml import mining
from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.functional import count_rows, safe_sqrt, squared_distances
from keras_dml.losses.loss_output import LossOutput
from keras_dml.typing import Tensor
from keras_dml.utils.deprecation import renamed_property, warn_renamed


class SampledTripletLoss(EmbeddingLoss):
    """Base of losses over one sampled triplet for each embedding.

    A subclass overrides `triplet_loss`. Embeddings without a positive or without a negative give no triplet; a batch
    without any triplet gives loss 0 and gradient 0 (`check_labels` says why, outside the graph). `key_counts`
    are, for each key, the triplets that have it as positive or negative.

    Args:
        miner: a name `keras_dml.mining.get` knows, or a `Miner`.
    """

    renamed_arguments: ClassVar[dict[str, str]] = {**EmbeddingLoss.renamed_arguments, "sampler": "miner"}
    sampler = renamed_property("sampler", "miner")

    def __init__(self, miner: Any = "distance_weighted", **kwargs: Any) -> None:
        # Subclasses hand on their default under the new name, so an old one beside it is the user's.
        if "sampler" in kwargs:
            warn_renamed(f"`sampler` of {type(self).__name__}", "`miner`")
            miner = kwargs.pop("sampler")
        super().__init__(**kwargs)
        self.miner = mining.get(miner)

    def triplet_loss(
        self, anchors: Tensor, positives: Tensor, negatives: Tensor, labels: Tensor, valid: Tensor
    ) -> Tensor:
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

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        queries = ops.stop_gradient(batch.embeddings)
        keys = queries if batch.keys_are_queries else ops.stop_gradient(batch.keys)
        distances = safe_sqrt(squared_distances(queries, keys))
        triplets = self.miner(distances, batch.positives, batch.negatives, embedding_dim=int(batch.embeddings.shape[1]))
        positives = ops.take(batch.keys, triplets.positive, axis=0)
        negatives = ops.take(batch.keys, triplets.negative, axis=0)
        loss = self.triplet_loss(batch.embeddings, positives, negatives, batch.labels, triplets.valid)
        count = ops.shape(keys)[0]
        key_counts = count_rows(triplets.positive, triplets.valid, count)
        return LossOutput(loss, key_counts + count_rows(triplets.negative, triplets.valid, count))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "miner": keras.saving.serialize_keras_object(self.miner)}
