"""Multi-similarity loss."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.functional import LOWEST, masked_logsumexp, masked_mean, similarities
from keras_dml.losses.loss_output import LossOutput
from keras_dml.losses.registry import register_loss


@register_loss("multi_similarity")
@keras.saving.register_keras_serializable(package="keras_dml")
class MultiSimilarityLoss(EmbeddingLoss):
    """Weighs the hard pairs of each anchor by their similarity.

    With S the inner product, positives with `S < max_n S_an + epsilon` and negatives with `S > min_p S_ap - epsilon`
    are kept, and `1/alpha log(1 + sum_p exp(-alpha (S_ap - base))) + 1/beta log(1 + sum_n exp(beta (S_an - base)))`
    is averaged over the anchors that keep both kinds. tensorflow-similarity's loss of this name (see `similarity`)
    averages the same terms over all anchors.

    `key_counts` are, for each key, the anchors that keep it.

    Args:
        alpha: sharpness of the positive term.
        beta: sharpness of the negative term.
        base: similarity that pairs are weighed against.
        epsilon: how far pairs may lie from being hard and still be kept.

    Reference: Wang et al., CVPR 2019, equations 11, 12 and 15; reduction of the authors' code.
    """

    def __init__(
        self, alpha: float = 2.0, beta: float = 40.0, base: float = 0.5, epsilon: float = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if alpha <= 0 or beta <= 0:
            raise ValueError(f"`alpha` and `beta` must be positive. Received: alpha={alpha}, beta={beta}")
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.epsilon = epsilon

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        scores = similarities(batch.embeddings, batch.keys)
        hardest_positive = ops.min(ops.where(batch.positives, scores, -LOWEST), axis=1, keepdims=True)
        hardest_negative = ops.max(ops.where(batch.negatives, scores, LOWEST), axis=1, keepdims=True)
        positives = ops.logical_and(batch.positives, scores < hardest_negative + self.epsilon)
        negatives = ops.logical_and(batch.negatives, scores > hardest_positive - self.epsilon)
        valid = ops.logical_and(ops.any(positives, axis=1), ops.any(negatives, axis=1))
        pull = ops.softplus(masked_logsumexp(-self.alpha * (scores - self.base), positives)) / self.alpha
        push = ops.softplus(masked_logsumexp(self.beta * (scores - self.base), negatives)) / self.beta
        kept = ops.logical_and(ops.logical_or(positives, negatives), valid[:, None])
        return LossOutput(masked_mean(pull + push, valid), ops.sum(ops.cast(kept, "float32"), axis=0))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "base": self.base,
            "epsilon": self.epsilon,
        }
