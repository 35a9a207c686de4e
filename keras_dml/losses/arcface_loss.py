"""ArcFace."""

import math
from typing import Any

import keras
from keras import ops

from keras_dml.losses.normalized_softmax_loss import cross_entropy
from keras_dml.losses.proxy_loss import ProxyLoss
from keras_dml.losses.registry import register_loss
from keras_dml.typing import Tensor


@register_loss("arcface")
@keras.saving.register_keras_serializable(package="keras_dml")
class ArcFaceLoss(ProxyLoss):
    """Cross-entropy over cosines with the class proxies, the right class's angle widened by a margin.

    The logit of the right class is `scale * cos(theta + margin)`, that of the others `scale * cos(theta)`. Beyond
    `theta = pi - margin`, where the widened cosine would grow again, it continues as `cos(theta) - margin sin(margin)`.

    Args:
        num_classes: number of training classes.
        margin: angle in radians.
        scale: what cosines are multiplied by.
        loss_learning_rate: learning rate of the proxies (ours; the paper trains all at one rate).
        seed: an integer for proxies that start the same in each run, or None.

    Reference: Deng et al., CVPR 2019, equation 3.
    """

    def __init__(self, num_classes: int, margin: float = 0.5, scale: float = 64.0, **kwargs: Any) -> None:
        super().__init__(num_classes=num_classes, **kwargs)
        if not 0 <= margin < math.pi:
            raise ValueError(f"`margin` must be an angle in radians, from 0 to below pi. Received: margin={margin}")
        if scale <= 0:
            raise ValueError(f"`scale` must be positive. Received: scale={scale}")
        self.margin = margin
        self.scale = scale

    def proxy_loss(self, cosines: Tensor, labels: Tensor) -> Tensor:
        target = ops.one_hot(labels, self.num_classes, dtype=cosines.dtype)
        cosine = ops.sum(cosines * target, axis=1)
        # The sine's slope is infinite where embedding and proxy coincide, and rounding can take cosines beyond 1.
        sine = ops.sqrt(ops.maximum(1.0 - ops.square(cosine), 1e-7))
        widened = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine - self.margin * math.sin(self.margin)
        widened = ops.where(cosine > math.cos(math.pi - self.margin), widened, beyond)
        return cross_entropy(self.scale * (cosines + target * (widened - cosine)[:, None]), labels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "scale": self.scale}
