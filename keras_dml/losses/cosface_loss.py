"""CosFace."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.normalized_softmax_loss import cross_entropy
from keras_dml.losses.proxy_loss import ProxyLoss
from keras_dml.losses.registry import register_loss
from keras_dml.typing import Tensor


@register_loss("cosface")
@keras.saving.register_keras_serializable(package="keras_dml")
class CosFaceLoss(ProxyLoss):
    """Cross-entropy over cosines with the class proxies, the right class's cosine lowered by a margin.

    The logit of the right class is `scale * (cos(theta) - margin)`, that of the others `scale * cos(theta)`.

    Args:
        num_classes: number of training classes.
        margin: what the right class's cosine is lowered by.
        scale: what cosines are multiplied by.
        loss_learning_rate: learning rate of the proxies (ours; the paper trains all at one rate).
        seed: an integer for proxies that start the same in each run, or None.

    Reference: Wang et al., CVPR 2018, equation 4.
    """

    def __init__(self, num_classes: int, margin: float = 0.35, scale: float = 64.0, **kwargs: Any) -> None:
        super().__init__(num_classes=num_classes, **kwargs)
        if margin < 0:
            raise ValueError(f"`margin` must not be negative. Received: margin={margin}")
        if scale <= 0:
            raise ValueError(f"`scale` must be positive. Received: scale={scale}")
        self.margin = margin
        self.scale = scale

    def proxy_loss(self, cosines: Tensor, labels: Tensor) -> Tensor:
        target = ops.one_hot(labels, self.num_classes, dtype=cosines.dtype)
        return cross_entropy(self.scale * (cosines - self.margin * target), labels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "scale": self.scale}
