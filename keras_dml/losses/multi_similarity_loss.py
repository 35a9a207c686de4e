"""Multi-similarity loss."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.functional import LOWEST, check_weights, masked_logsumexp, masked_mean, similarities
from keras_dml.losses.loss_output import LossOutput
from keras_dml.losses.registry import register_loss


@register_loss("multi_similarity")
@keras.saving.register_keras_serializable(package="keras_dml")
class MultiSimilarityLoss(EmbeddingLoss):
    """Weighs the hard pairs of each anchor by their similarity.

    With S the inner product, positives with `S < max_n S_an + epsilon` and negatives with `S > min_p S_ap - epsilon`
    are kept, and the sum of

        1/alpha log(1 + w_p sum_p exp(-alpha (S_ap - base)))    and    1/beta log(1 + w_n sum_n exp(beta (S_an - base)))

    is averaged over the anchors that keep both kinds. The weights w_p and w_n, 1 in the paper, are ours: a weight w is
    a `base` that is higher by `ln w / alpha` for positives, lower by `ln w / beta` for negatives. DAS with T produced
    embeddings multiplies both sums by about T + 1 (docs/das.md). tensorflow-similarity's loss of this name (see
    `similarity`) averages the same terms over all anchors.

    `key_counts` are, for each key, the anchors that keep it.

    Args:
        alpha: sharpness of the positive term.
        beta: sharpness of the negative term.
        base: similarity that pairs are weighed against.
        epsilon: how far pairs may lie from being hard and still be kept.
        positive_weight: what the sum over positives is multiplied by; n copies of every embedding multiply it by n.
        negative_weight: the same for the sum over negatives.

    Reference: Wang et al., CVPR 2019, equations 11, 12 and 15; reduction of the authors' code.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 40.0,
        base: float = 0.5,
        epsilon: float = 0.1,
        positive_weight: float = 1.0,
        negative_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if alpha <= 0 or beta <= 0:
            raise ValueError(f"`alpha` and `beta` must be positive. Received: alpha={alpha}, beta={beta}")
        check_weights(positive_weight=positive_weight, negative_weight=negative_weight)
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.epsilon = epsilon
        self.positive_weight = positive_weight
        self.negative_weight = negative_weight

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        scores = similarities(batch.embeddings, batch.keys)
        hardest_positive = ops.min(ops.where(batch.positives, scores, -LOWEST), axis=1, keepdims=True)
        hardest_negative = ops.max(ops.where(batch.negatives, scores, LOWEST), axis=1, keepdims=True)
        positives = ops.logical_and(batch.positives, scores < hardest_negative + self.epsilon)
        negatives = ops.logical_and(batch.negatives, scores > hardest_positive - self.epsilon)
        valid = ops.logical_and(ops.any(positives, axis=1), ops.any(negatives, axis=1))
        pull = masked_logsumexp(-self.alpha * (scores - self.base), positives, weight=self.positive_weight)
        push = masked_logsumexp(self.beta * (scores - self.base), negatives, weight=self.negative_weight)
        terms = ops.softplus(pull) / self.alpha + ops.softplus(push) / self.beta
        kept = ops.logical_and(ops.logical_or(positives, negatives), valid[:, None])
        return LossOutput(masked_mean(terms, valid), ops.sum(ops.cast(kept, "float32"), axis=0))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "base": self.base,
            "epsilon": self.epsilon,
            "positive_weight": self.positive_weight,
            "negative_weight": self.negative_weight,
        }
