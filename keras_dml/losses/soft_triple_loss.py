"""SoftTriple."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.functional import l2_normalize
from keras_dml.losses.loss_output import LossOutput
from keras_dml.losses.normalized_softmax_loss import cross_entropy
from keras_dml.losses.proxy_loss import ProxyLoss
from keras_dml.losses.registry import register_loss
from keras_dml.typing import Tensor


@register_loss("soft_triple")
@keras.saving.register_keras_serializable(package="keras_dml")
class SoftTripleLoss(ProxyLoss):
    """Cross-entropy over soft similarities with several centers for each class, which are drawn together.

    The similarity S of an embedding and a class is the mean of its cosines with the class's centers w, weighed by their
    softmax at temperature `gamma`. The loss is the mean of `-log(exp(la (S_y - margin)) / (exp(la (S_y - margin)) +
    sum_c exp(la S_c)))`, c over the other classes, plus `tau` times the sum of `sqrt(2 + 1e-5 - 2 w_s w_t)` over the
    pairs s < t of centers of one class, over `num_classes * centers_per_class * (centers_per_class - 1)`. So a class
    that needs fewer centers merges them.

    Args:
        num_classes: number of training classes.
        centers_per_class: centers of each class, K.
        la: what similarities are multiplied by, lambda.
        gamma: temperature of the softmax over the centers of a class.
        margin: what the right class's similarity is lowered by, delta.
        tau: weight of the distances between the centers of a class.
        loss_learning_rate: learning rate of the centers, 100 times the network's in the authors' code.
        seed: an integer for centers that start the same in each run, or None.

    Reference: Qian et al., ICCV 2019, section 3; constants, and the 1e-5 under the root, of the authors' code.
    """

    def __init__(
        self,
        num_classes: int,
        centers_per_class: int = 10,
        la: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
        tau: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **kwargs)
        if centers_per_class < 1:
            raise ValueError(f"`centers_per_class` must be positive. Received: centers_per_class={centers_per_class}")
        if la <= 0 or gamma <= 0:
            raise ValueError(f"`la` and `gamma` must be positive. Received: la={la}, gamma={gamma}")
        if tau < 0:
            raise ValueError(f"`tau` must not be negative. Received: tau={tau}")
        self.centers_per_class = self.proxies_per_class = centers_per_class
        self.la = la
        self.gamma = gamma
        self.margin = margin
        self.tau = tau

    def proxy_loss(self, cosines: Tensor, labels: Tensor) -> Tensor:
        by_center = self.by_class(cosines)
        scores = ops.sum(ops.softmax(by_center / self.gamma, axis=2) * by_center, axis=2)
        target = ops.one_hot(labels, self.num_classes, dtype=scores.dtype)
        return cross_entropy(self.la * (scores - self.margin * target), labels)

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        output = super().compute_loss(batch)
        if self.tau == 0 or self.centers_per_class == 1:
            return output
        return output._replace(loss=output.loss + ops.cast(self.tau * self._spread(), output.loss.dtype))

    def _spread(self) -> Tensor:
        centers = self.centers_per_class
        directions = ops.reshape(l2_normalize(self.proxies), (self.num_classes, centers, -1))
        cosines = ops.matmul(directions, ops.transpose(directions, (0, 2, 1)))
        # Rounding can take cosines beyond 1, and the root's slope is infinite at 0.
        distances = ops.sqrt(2.0 + 1e-5 - 2.0 * ops.minimum(cosines, 1.0))
        pairs = ops.cast(ops.triu(ops.ones((centers, centers)), k=1), distances.dtype)
        return ops.sum(distances * pairs) / (self.num_classes * centers * (centers - 1))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "centers_per_class": self.centers_per_class,
            "la": self.la,
            "gamma": self.gamma,
            "margin": self.margin,
            "tau": self.tau,
        }
