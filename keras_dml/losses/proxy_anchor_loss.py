"""Proxy-Anchor."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.functional import check_weights, masked_logsumexp, masked_mean
from keras_dml.losses.proxy_loss import ProxyLoss
from keras_dml.losses.registry import register_loss
from keras_dml.typing import Tensor


@register_loss("proxy_anchor")
@keras.saving.register_keras_serializable(package="keras_dml")
class ProxyAnchorLoss(ProxyLoss):
    """Takes each proxy as an anchor and weighs the batch's embeddings by their hardness.

    With S the cosine of embedding and proxy: the mean over proxies with a positive in the batch of
    `log(1 + w_p sum_x+ exp(-alpha (S - delta)))`, plus the mean over all proxies of
    `log(1 + w_n sum_x- exp(alpha (S + delta)))`. The weights w_p and w_n, 1 in the paper, are ours.

    Args:
        num_classes: number of training classes.
        alpha: sharpness.
        delta: margin.
        positive_weight: what the sum over the embeddings of a class is multiplied by; n copies of every embedding
            multiply it by n.
        negative_weight: the same for the sum over the others.
        loss_learning_rate: learning rate of the proxies, 100 times the network's in the authors' code.
        seed: an integer for proxies that start the same in each run, or None.

    Reference: Kim et al., CVPR 2020, equation 4.
    """

    def __init__(
        self,
        num_classes: int,
        alpha: float = 32.0,
        delta: float = 0.1,
        positive_weight: float = 1.0,
        negative_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **kwargs)
        check_weights(positive_weight=positive_weight, negative_weight=negative_weight)
        if alpha <= 0:
            raise ValueError(f"`alpha` must be positive. Received: alpha={alpha}")
        self.alpha = alpha
        self.delta = delta
        self.positive_weight = positive_weight
        self.negative_weight = negative_weight

    def proxy_loss(self, cosines: Tensor, labels: Tensor) -> Tensor:
        positives = ops.equal(labels[:, None], ops.arange(self.num_classes, dtype=labels.dtype)[None, :])
        negatives = ops.logical_not(positives)
        pull, push = -self.alpha * (cosines - self.delta), self.alpha * (cosines + self.delta)
        pull = ops.softplus(masked_logsumexp(pull, positives, axis=0, weight=self.positive_weight))
        push = ops.softplus(masked_logsumexp(push, negatives, axis=0, weight=self.negative_weight))
        return masked_mean(pull, ops.any(positives, axis=0)) + ops.mean(push)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "delta": self.delta,
            "positive_weight": self.positive_weight,
            "negative_weight": self.negative_weight,
        }
