"""Normalized softmax."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.proxy_loss import ProxyLoss
from keras_dml.losses.registry import register_loss
from keras_dml.typing import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits `(n, c)` and labels `(n,)`."""
    target = ops.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return ops.mean(ops.logsumexp(logits, axis=1) - ops.sum(logits * target, axis=1))


@register_loss("normalized_softmax")
@keras.saving.register_keras_serializable(package="keras_dml")
class NormalizedSoftmaxLoss(ProxyLoss):
    """Cross-entropy over cosines with the class proxies, divided by a temperature.

    Args:
        num_classes: number of training classes.
        temperature: what cosines are divided by.
        loss_learning_rate: learning rate of the proxies (ours; the paper trains all at one rate).
        seed: an integer for proxies that start the same in each run, or None.

    Reference: Zhai and Wu, BMVC 2019, section 3.1.
    """

    def __init__(self, num_classes: int, temperature: float = 0.05, **kwargs: Any) -> None:
        super().__init__(num_classes=num_classes, **kwargs)
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive. Received: temperature={temperature}")
        self.temperature = temperature

    def proxy_loss(self, cosines: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(cosines / self.temperature, labels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
