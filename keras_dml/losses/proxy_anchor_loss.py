"""Proxy-Anchor."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.functional import masked_logsumexp, masked_mean
from keras_dml.losses.proxy_loss import ProxyLoss
from keras_dml.losses.registry import register_loss
from keras_dml.typing import Tensor


@register_loss("proxy_anchor")
@keras.saving.register_keras_serializable(package="keras_dml")
class ProxyAnchorLoss(ProxyLoss):
    """Takes each proxy as an anchor and weighs the batch's embeddings by their hardness.

    With S the cosine of embedding and proxy: the mean over proxies with a positive in the batch of
    `log(1 + sum_x+ exp(-alpha (S - delta)))`, plus the mean over all proxies of
    `log(1 + sum_x- exp(alpha (S + delta)))`.

    Args:
        num_classes: number of training classes.
        alpha: sharpness.
        delta: margin.
        loss_learning_rate: learning rate of the proxies, 100 times the network's in the authors' code.
        seed: an integer for proxies that start the same in each run, or None.

    Reference: Kim et al., CVPR 2020, equation 4.
    """

    def __init__(self, num_classes: int, alpha: float = 32.0, delta: float = 0.1, **kwargs: Any) -> None:
        super().__init__(num_classes=num_classes, **kwargs)
        if alpha <= 0:
            raise ValueError(f"`alpha` must be positive. Received: alpha={alpha}")
        self.alpha = alpha
        self.delta = delta

    def proxy_loss(self, cosines: Tensor, labels: Tensor) -> Tensor:
        positives = ops.equal(labels[:, None], ops.arange(self.num_classes, dtype=labels.dtype)[None, :])
        negatives = ops.logical_not(positives)
        pull = ops.softplus(masked_logsumexp(-self.alpha * (cosines - self.delta), positives, axis=0))
        push = ops.softplus(masked_logsumexp(self.alpha * (cosines + self.delta), negatives, axis=0))
        return masked_mean(pull, ops.any(positives, axis=0)) + ops.mean(push)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha, "delta": self.delta}
