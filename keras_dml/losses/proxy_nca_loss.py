"""Proxy-NCA++."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.normalized_softmax_loss import cross_entropy
from keras_dml.losses.proxy_loss import ProxyLoss
from keras_dml.losses.registry import register_loss
from keras_dml.typing import Tensor


@register_loss("proxy_nca")
@keras.saving.register_keras_serializable(package="keras_dml")
class ProxyNCALoss(ProxyLoss):
    """Cross-entropy over squared distances from the class proxies (ProxyNCA++).

    With D the Euclidean distance of normalized embeddings and proxies, the mean of
    `-log(exp(-D_y^2 / temperature) / sum_c exp(-D_c^2 / temperature))`, c over all classes, y included.

    Args:
        num_classes: number of training classes.
        temperature: what squared distances are divided by.
        loss_learning_rate: learning rate of the proxies (ours).
        seed: an integer for proxies that start the same in each run, or None.

    Reference: Teh et al., ECCV 2020, equation 6 and section 3.4 (temperature 1/9).
    """

    def __init__(self, num_classes: int, temperature: float = 1.0 / 9.0, **kwargs: Any) -> None:
        super().__init__(num_classes=num_classes, **kwargs)
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive. Received: temperature={temperature}")
        self.temperature = temperature

    def proxy_loss(self, cosines: Tensor, labels: Tensor) -> Tensor:
        squared_distances = ops.maximum(2.0 - 2.0 * cosines, 0.0)
        return cross_entropy(-squared_distances / self.temperature, labels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
