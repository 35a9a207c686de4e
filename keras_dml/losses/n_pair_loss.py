"""N-pair loss."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.functional import (
    check_weights,
    count_rows,
    masked_logsumexp,
    masked_mean,
    row_norms,
    similarities,
)
from keras_dml.losses.loss_output import LossOutput
from keras_dml.losses.registry import register_loss
from keras_dml.mining.random_miner import RandomMiner
from keras_dml.utils.deprecation import renamed_property


@register_loss("n_pair")
@keras.saving.register_keras_serializable(package="keras_dml")
class NPairLoss(EmbeddingLoss):
    """Tells one positive from all negatives by inner products of unnormalized embeddings.

    With embeddings x divided by `divisor`, one uniform positive p for each anchor a, and all its negatives n:
    `mean log(1 + w_n sum_n exp(a.n - a.p)) + norm_weight * mean |x|`, both means 0 where no anchor has a positive and a
    negative. The weight w_n, 1 in the paper, is ours. Build the encoder with unnormalized output, and DAS with
    `normalize=False`.

    `key_counts` count drawn positives and, for each anchor with a positive, its negatives.

    Args:
        norm_weight: weight of the mean length of the divided embeddings.
        divisor: what embeddings are divided by first, lest the exponentials start out too large.
        negative_weight: what the sum over negatives is multiplied by; n copies of every embedding multiply it by n.
        seed: an integer for draws that repeat, or None.

    Reference: Sohn, NIPS 2016, equations 6 and 8; constants of the DAS code, which averages the length where the
    paper averages its square.
    """

    normalized_inputs = False

    sampler = renamed_property("sampler", "miner")

    def __init__(
        self,
        norm_weight: float = 0.005,
        divisor: float = 4.0,
        seed: int | None = None,
        negative_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_weights(negative_weight=negative_weight)
        if divisor <= 0:
            raise ValueError(f"`divisor` must be positive. Received: divisor={divisor}")
        self.norm_weight = norm_weight
        self.divisor = divisor
        self.seed = seed
        self.negative_weight = negative_weight
        self.miner = RandomMiner(seed=seed)

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        embeddings = batch.embeddings / self.divisor
        keys = embeddings if batch.keys_are_queries else batch.keys / self.divisor
        products = similarities(embeddings, keys)
        _, positive, _, valid = self.miner(products, batch.positives, batch.negatives)
        positive_product = ops.squeeze(ops.take_along_axis(products, positive[:, None], axis=1), axis=1)
        against = masked_logsumexp(products, batch.negatives, weight=self.negative_weight) - positive_product
        loss = masked_mean(ops.softplus(ops.where(valid, against, 0.0)), valid)
        norm = ops.where(ops.any(valid), ops.mean(row_norms(embeddings)), 0.0)
        key_counts = count_rows(positive, valid, ops.shape(keys)[0])
        key_counts = key_counts + ops.sum(ops.cast(ops.logical_and(batch.negatives, valid[:, None]), "float32"), axis=0)
        return LossOutput(loss + self.norm_weight * norm, key_counts)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "norm_weight": self.norm_weight,
            "divisor": self.divisor,
            "seed": self.seed,
            "negative_weight": self.negative_weight,
        }
