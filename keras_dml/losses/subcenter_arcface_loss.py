"""Sub-center ArcFace."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.arcface_loss import ArcFaceLoss
from keras_dml.losses.registry import register_loss
from keras_dml.typing import Tensor


@register_loss("subcenter_arcface")
@keras.saving.register_keras_serializable(package="keras_dml")
class SubCenterArcFaceLoss(ArcFaceLoss):
    """ArcFace with several proxies for each class, of which the nearest counts.

    The cosine of an embedding and a class is the greatest of those with the class's `sub_centers` proxies; ArcFace's
    margin and cross-entropy follow. Mislabeled images gather at a proxy of their own in place of pulling at the others.

    Args:
        num_classes: number of training classes.
        sub_centers: proxies for each class.
        margin: angle in radians.
        scale: what cosines are multiplied by.
        loss_learning_rate: learning rate of the proxies (ours).
        seed: an integer for proxies that start the same in each run, or None.

    Reference: Deng et al., ECCV 2020, section 3 (the maximum over K sub-centers; K = 3).
    """

    def __init__(
        self, num_classes: int, sub_centers: int = 3, margin: float = 0.5, scale: float = 64.0, **kwargs: Any
    ) -> None:
        super().__init__(num_classes=num_classes, margin=margin, scale=scale, **kwargs)
        if sub_centers < 1:
            raise ValueError(f"`sub_centers` must be positive. Received: sub_centers={sub_centers}")
        self.sub_centers = self.proxies_per_class = sub_centers

    def proxy_loss(self, cosines: Tensor, labels: Tensor) -> Tensor:
        return super().proxy_loss(ops.max(self.by_class(cosines), axis=2), labels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sub_centers": self.sub_centers}
