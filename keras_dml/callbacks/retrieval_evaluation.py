"""Retrieval metrics on held-out classes during training."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import keras
import numpy as np

from keras_dml.data import ImagePreprocessing, Split
from keras_dml.evaluation import RetrievalOptions, at_widths, check_metric, chosen_metric, evaluate_retrieval
from keras_dml.image_encoder import ImageEncoder, metric_of_encoder
from keras_dml.typing import Tensor

if TYPE_CHECKING:
    import tensorflow as tf

HeldOut: TypeAlias = "tuple[Tensor, Tensor] | keras.utils.PyDataset | tf.data.Dataset | Split"


class RetrievalEvaluation(keras.callbacks.Callback):
    """Adds Recall@k and MAP@R on held-out classes to the logs at the end of an epoch.

    The values are named `val_recall@1`, ..., `val_map@r`; the progress bar and the history show them, and
    `ModelCheckpoint` and `EarlyStopping` can monitor them (with `mode="max"`).

    Args:
        query: `(images, labels)` arrays; or a `keras.utils.PyDataset` or `tf.data.Dataset` of such batches, with an
            end; or a `Split` (with `preprocessing`).
        gallery: The same for a gallery of its own; by default queries search among themselves, each without itself.
        ks: Ranks of Recall@k.
        every: Evaluates every so many epochs, from the first on, and after the last.
        preprocessing: How the images of a `Split` become encoder inputs.
        batch_size: Images embedded at a time.
        prefix: Put before every name.
        widths: Numbers of first channels at which the embedding is evaluated too, for `losses.MatryoshkaLoss`:
            `val_d8_recall@1`, ..., `val_d8_map@r` for 8.
        metric: "cosine" or "euclidean". By default cosine where the encoder's embeddings have unit length and Euclidean
            distance where they do not.
    """

    def __init__(
        self,
        query: HeldOut,
        gallery: "HeldOut | None" = None,
        ks: Sequence[int] = (1, 2, 4, 8),
        every: int = 1,
        preprocessing: ImagePreprocessing | None = None,
        batch_size: int = 256,
        prefix: str = "val_",
        widths: Sequence[int] = (),
        metric: str | None = None,
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be a positive number of epochs. Received: every={every}")
        check_metric(metric)
        self.metric = metric
        self.ks = tuple(ks)
        self.widths = tuple(widths)
        self.every = every
        self.prefix = prefix
        self.batch_size = batch_size
        self.preprocessing = preprocessing
        self._query = self._checked(query)
        self._gallery = None if gallery is None else self._checked(gallery)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        last = epoch + 1 == self.params.get("epochs") or self.model.stop_training
        if epoch % self.every and not last:
            return
        values = self.evaluate()
        if logs is not None:
            logs.update(values)

    def evaluate(self) -> dict[str, float]:
        """Embeds the held-out images with the current model and returns the metrics by name."""
        embeddings, labels = self._embed(self._query)
        gallery, gallery_labels = (None, None) if self._gallery is None else self._embed(self._gallery)
        # Told by the encoder where it can be, so that it does not change between epochs.
        metric = self.metric or metric_of_encoder(self.model)
        metric = chosen_metric(metric, embeddings, *([] if gallery is None else [gallery]))
        options = RetrievalOptions(metric=metric)
        result = evaluate_retrieval(embeddings, labels, gallery, gallery_labels, ks=self.ks, options=options)
        values = {f"{self.prefix}recall@{k}": float(result.recall[k]) for k in self.ks}
        values[f"{self.prefix}map@r"] = float(result.map_at_r)
        narrower = at_widths(embeddings, labels, (gallery, gallery_labels), self.ks, self.widths, metric)
        return {**values, **{f"{self.prefix}{name}": value for name, value in narrower.items()}}

    def _embed(self, data: HeldOut) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings `(n, d)` and labels `(n,)` of what `_checked` let pass."""
        if isinstance(data, Split):
            assert self.preprocessing is not None
            return ImageEncoder(self.model, self.preprocessing).embed(data, self.batch_size), data.labels
        if isinstance(data, tuple):
            images, labels = data
            return self.model.predict(images, batch_size=self.batch_size, verbose=0), labels
        parts, part_labels = [], []
        for batch, batch_labels in data:
            parts.append(np.asarray(self.model.predict_on_batch(batch)))
            part_labels.append(np.asarray(batch_labels).reshape(-1))
        return np.concatenate(parts), np.concatenate(part_labels)

    def _checked(self, data: HeldOut) -> HeldOut:
        """A `Split`, batches, or a pair of arrays."""
        if isinstance(data, Split):
            if self.preprocessing is None:
                raise ValueError("A `Split` needs `preprocessing`, an ImagePreprocessing of the encoder's input size.")
            return data
        if isinstance(data, keras.utils.PyDataset):
            if data.num_batches is None:
                raise ValueError("Held-out batches need an end. Received: a PyDataset without one; give it `steps`")
            return data
        # Whoever holds such a data set has imported the module.
        tensorflow = sys.modules.get("tensorflow")
        if hasattr(tensorflow, "data") and isinstance(data, tensorflow.data.Dataset):  # type: ignore[union-attr]
            return data
        if isinstance(data, tuple) and len(data) == 2:
            images, labels = data
            return np.asarray(images), np.asarray(labels).reshape(-1)
        raise ValueError(
            "Held-out data must be a tuple (images, labels), a PyDataset or a tf.data.Dataset of such batches, or a "
            f"Split. Received: {type(data).__name__}"
        )
