"""The base class of losses against learned proxies of the classes."""

from typing import Any

import keras
from keras import ops

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.functional import l2_normalize, similarities
from keras_dml.losses.loss_output import LossOutput
from keras_dml.typing import Tensor


class ProxyLoss(EmbeddingLoss):
    """Base of losses that compare embeddings with learned proxies of the classes, one each unless a subclass has more.

    Proxies are float32 weights `(num_classes * proxies_per_class, d)`. Embeddings and proxies are normalized on entry.
    A subclass overrides `proxy_loss`. Proxies take the place of keys: keys given are ignored, and there are no
    `key_counts`.

    Labels outside `[0, num_classes)` raise in eager mode; in a graph the loss becomes NaN and every gradient 0.

    Args:
        num_classes: number of training classes.
        loss_learning_rate: learning rate of the proxies.
        seed: an integer for proxies that start the same in each run, or None.
    """

    normalized_inputs = None
    uses_keys = False
    num_classes: int

    proxies_per_class: int = 1
    """How many proxies each class has: class c those from row `c * proxies_per_class` on."""

    def __init__(
        self,
        num_classes: int,
        loss_learning_rate: float | None = 1e-2,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(loss_learning_rate=loss_learning_rate, **kwargs)
        if num_classes < 1:
            raise ValueError(f"`num_classes` must be positive. Received: num_classes={num_classes}")
        self.num_classes = num_classes
        self.seed = seed

    def add_weights(self, embedding_dim: int) -> None:
        # Only the direction of a proxy counts; of normal components, it is uniform. The length sets how far a
        # gradient step turns it: the scale is that of Proxy-Anchor's code.
        count = self.num_classes * self.proxies_per_class
        self.proxies = self.add_weight(
            name="proxies",
            shape=(count, embedding_dim),
            initializer=keras.initializers.RandomNormal(stddev=(2.0 / count) ** 0.5, seed=self.seed),
            dtype="float32",
        )

    def proxy_loss(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """The loss from cosines `(n, num_classes * proxies_per_class)` and labels `(n,)`, which may be out of range.

        Returns:
            A scalar; what it is for labels out of range does not matter, as long as the program survives it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override `proxy_loss`.")

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        cosines = similarities(l2_normalize(batch.embeddings), l2_normalize(self.proxies))
        return LossOutput(self.proxy_loss(cosines, batch.labels))

    def by_class(self, cosines: Tensor) -> Tensor:
        """`(n, num_classes, proxies_per_class)`: the cosines, those of a class together."""
        return ops.reshape(cosines, (-1, self.num_classes, self.proxies_per_class))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes, "seed": self.seed}
