"""The double-header hinge loss of PDDM."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.functional import bounded_normalize
from keras_dml.losses.loss_output import LossOutput
from keras_dml.losses.registry import register_loss
from keras_dml.mining.hard_quadruplets import STRATEGIES, hard_quadruplets
from keras_dml.typing import Tensor


@register_loss("double_header_hinge")
@keras.saving.register_keras_serializable(package="keras_dml")
class DoubleHeaderHinge(EmbeddingLoss):
    """Hinges on learned pair scores and on the distance of the hardest quadruplets.

    The pair scorer (`PDDMUnit`) scores all pairs of the batch and picks the hard quadruplets `(i, j, k, l)`, see
    `keras_dml.mining.hard_quadruplets`. With `S` its scores and `D` the squared Euclidean distance of the L2-normalized
    embeddings,

        E_m = relu(alpha - S_ij + S_ik) + relu(alpha - S_ij + S_jl)
        E_e = relu(beta + D_ij - D_ik) + relu(beta + D_ij - D_jl)
        loss = mean over the quadruplets of E_m + weight * E_e

    The scores that pick the quadruplets carry no gradient; those of the picked pairs are computed again with one, which
    trains the scorer and the embeddings. So a step costs a forward pass over all pairs and a backward pass over a
    few. A batch without a positive pair, or of one class, has loss 0 and zero gradients.

    With `DASAugmentation` build that with `detach=False`: with detached embeddings among the hardest negatives the
    encoder collapsed in every run (docs/pddm.md).

    Its statistics, which `fit` logs and `compute` returns, show a collapse while the loss still looks fine:
    `score_gap`, the mean score of the positive pairs minus that of the negative pairs; `active_hinges`, the share of
    score hinges above zero; `embedding_spread`, 1 minus the squared length of the mean embedding (0 when all embeddings
    agree, near 1 when they fill the sphere).

    Args:
        alpha: margin between the scores of a positive and a negative pair.
        beta: margin between the squared distances of a positive and a negative pair.
        weight: weight of `E_e`. At 0 the scores alone drives the embeddings.
        mining: the strategy of `hard_quadruplets`. `"pair"` and `"anchor"` are this library's variants, which average
            one quadruplet per row; `"batch"` is the published one quadruplet per batch, which collapses when the
            encoder starts from random weights (docs/pddm.md).
        triplets: use `(i, j, k)` only, the paper's triplet variant.
        block_size: number of pairs that are scored at once, see `PDDMUnit.pairwise`.
        loss_learning_rate: suggested learning rate of the pair scorer, for models that ask.
        **kwargs: arguments of `EmbeddingLoss`.

    Reference: Huang, Loy, Tang, "Local Similarity-Aware Deep Feature Embedding", NIPS 2016.

    Example:
        >>> model = MetricLearner(encoder, pair_scorer=PDDMUnit())
        >>> model.compile("adam", loss="double_header_hinge")
    """

    needs_pair_scorer = True
    statistics_names = ("score_gap", "active_hinges", "embedding_spread")
    normalized_inputs = None

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 1.0,
        weight: float = 0.5,
        mining: str = "pair",
        triplets: bool = False,
        block_size: int = 1024,
        loss_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(loss_learning_rate=loss_learning_rate, **kwargs)
        for name, value in (("alpha", alpha), ("beta", beta), ("weight", weight)):
            if value < 0:
                raise ValueError(f"`{name}` must not be negative. Received: {name}={value}")
        if block_size <= 0:
            raise ValueError(f"`block_size` must be positive. Received: block_size={block_size}")
        if mining not in STRATEGIES:
            raise ValueError(f"`mining` must be one of {', '.join(STRATEGIES)}. Received: mining={mining!r}")
        self.alpha = alpha
        self.beta = beta
        self.weight = weight
        self.mining = mining
        self.triplets = triplets
        self.block_size = block_size

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        scorer: Any = batch.pair_scorer
        keys_are_queries = batch.keys_are_queries
        queries = bounded_normalize(batch.embeddings)
        keys = queries if keys_are_queries else bounded_normalize(batch.keys)
        scores = ops.stop_gradient(
            scorer.pairwise(
                ops.stop_gradient(queries),
                None if keys_are_queries else ops.stop_gradient(keys),
                block_size=self.block_size,
            )
        )
        i, j, k, l, valid = hard_quadruplets(  # noqa: E741 - the paper's names
            scores,
            batch.labels,
            None if keys_are_queries else batch.key_labels,
            ids=batch.ids,
            key_ids=None if keys_are_queries else batch.key_ids,
            strategy=self.mining,
        )
        x_i, x_j, x_k, x_l = (
            ops.take(rows, index, axis=0) for rows, index in ((queries, i), (keys, j), (keys, k), (queries, l))
        )
        pairs = [(x_i, x_j), (x_i, x_k)] if self.triplets else [(x_i, x_j), (x_i, x_k), (x_j, x_l)]
        # One call for all pairs, so that the matrix products see one batch.
        first, second = (ops.concatenate(side, axis=0) for side in zip(*pairs, strict=True))
        pair_scores = scorer([first, second], training=batch.training)
        pair_scores = ops.split(ops.cast(pair_scores, first.dtype), len(pairs))
        pair_distances = ops.split(ops.sum(ops.square(first - second), axis=-1), len(pairs))

        score_hinges = [ops.relu(self.alpha - pair_scores[0] + negative) for negative in pair_scores[1:]]
        distance_hinges = [ops.relu(self.beta + pair_distances[0] - negative) for negative in pair_distances[1:]]
        each = sum(score_hinges) + self.weight * sum(distance_hinges)
        each = ops.where(valid, each, 0.0)
        count = ops.maximum(ops.sum(ops.cast(valid, each.dtype)), 1.0)
        loss = ops.sum(each) / count

        active = ops.cast(each > 0, "float32")
        # With keys of their own, `l` is a query and not a key.
        used = (j, k) if self.triplets or not keys_are_queries else (j, k, l)
        hits = (ops.one_hot(index, ops.shape(keys)[0], dtype=active.dtype) for index in used)
        key_counts = sum(ops.sum(hit * active[:, None], axis=0) for hit in hits)
        return LossOutput(loss, key_counts, self._statistics(batch, queries, scores, score_hinges, valid))

    def _statistics(
        self, batch: EmbeddingBatch, queries: Tensor, scores: Tensor, score_hinges: list[Tensor], valid: Tensor
    ) -> dict[str, Tensor]:
        def mean(values: Tensor, mask: Tensor) -> Tensor:
            mask = ops.cast(mask, values.dtype)
            return ops.sum(values * mask) / ops.maximum(ops.sum(mask), 1.0)

        active = sum(ops.cast(hinge > 0, "float32") for hinge in score_hinges) / len(score_hinges)
        center = ops.mean(ops.stop_gradient(queries), axis=0)
        return {
            "score_gap": mean(scores, batch.positives) - mean(scores, batch.negatives),
            "active_hinges": mean(active, valid),
            "embedding_spread": 1.0 - ops.sum(ops.square(center)),
        }

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "weight": self.weight,
            "mining": self.mining,
            "triplets": self.triplets,
            "block_size": self.block_size,
        }
