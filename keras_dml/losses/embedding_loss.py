"""The base class of every loss."""

from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np

from keras_dml.backend import integers
from keras_dml.losses import unusable_batches
from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.loss_output import LossOutput
from keras_dml.typing import Shape, Tensor
from keras_dml.utils.deprecation import rename_arguments, renamed_property, warn_renamed


class EmbeddingLoss(keras.layers.Layer):
    """Base of all losses: a Keras layer called as `loss(labels, embeddings)`, returning a float32 scalar.

    A subclass overrides `compute_loss(batch)`, and `add_weights(embedding_dim)` if it has weights. Being a layer,
    a loss has weights, is built from the embedding width alone (`loss.build((None,), (None, d))`), and is saved and
    restored with the model that holds it. Computation is in float32 whatever the global dtype policy: inputs in
    half precision are cast on entry.

    `loss.compute(batch)` gives all that a loss knows about a batch; `MetricLearner` and wrapped losses use it.

    Call arguments:
        labels: `(n,)` or `(n, 1)` integers.
        embeddings: `(n, d)`, the queries.
        keys, key_labels, ids, key_ids: what the queries are compared with, see `EmbeddingBatch.create`. Without keys
            the embeddings are their own keys, and no item is compared with itself.
        pair_scorer: a `PDDMUnit`-like layer, for losses with `needs_pair_scorer`.
        training: whether the loss may update its state (memories, running means). A loss called outside a model
            counts as not training unless told.

    Args:
        loss_learning_rate: suggested learning rate of the loss's own weights, for models that ask. None for the
            encoder's.

    Raises:
        ValueError: for labels that are not integer vectors, lengths or widths that disagree, a missing pair scorer.
    """

    needs_pair_scorer: bool = False
    """Whether the loss has to be given a `pair_scorer`."""

    uses_keys: bool = True
    """Whether embeddings are compared with one another (or keys), rather than with proxies."""

    needs_negatives: bool = True
    """Whether a loss with `uses_keys` learns nothing from a batch of one class."""

    uses_ids: bool = True
    """Whether items of one id are never compared; where embeddings are not compared at all, True as well."""

    normalized_inputs: bool | None = True
    """Whether the method expects L2-normalized embeddings; None where either will do."""

    num_classes: int | None = None
    """For how many classes the loss has weights; None where it has none by class. Labels outside are then met as
    `keras_dml.losses.unusable_batches` says."""

    statistics_names: tuple[str, ...] = ()
    """Names of the statistics in the loss's `LossOutput`; logs need them before the first step."""

    renamed_arguments: ClassVar[dict[str, str]] = {"parameter_learning_rate": "loss_learning_rate"}
    """Old names of constructor arguments, still taken for one version and in saved models."""

    parameter_learning_rate = renamed_property("parameter_learning_rate", "loss_learning_rate")
    needs_similarity = renamed_property("needs_similarity", "needs_pair_scorer")

    def __init__(
        self,
        loss_learning_rate: float | None = None,
        name: str | None = None,
        dtype: Any = "float32",
        **kwargs: Any,
    ) -> None:
        # Subclasses hand on their default under the new name, so an old one beside it is the user's.
        if "parameter_learning_rate" in kwargs:
            warn_renamed(f"`parameter_learning_rate` of {type(self).__name__}", "`loss_learning_rate`")
            loss_learning_rate = kwargs.pop("parameter_learning_rate")
        super().__init__(name=name, dtype=dtype, **kwargs)
        if self.compute_dtype not in ("float32", "float64"):
            raise ValueError(
                f"`dtype` of a loss must be float32 or float64. Received: dtype={self.compute_dtype}. Leave it out: "
                "a loss takes half-precision embeddings and computes in float32."
            )
        self.loss_learning_rate = loss_learning_rate

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput | tuple[Tensor, Tensor | None]:
        """The loss of a batch, for subclasses to override; call `compute`.

        Returns:
            A `LossOutput`, or `(loss, key_counts)`: a scalar, and `(m,)` counts of how often each key was used, or
            None.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override `compute_loss`.")

    def add_weights(self, embedding_dim: int) -> None:
        """Create the loss's weights; called once, with the embedding width."""

    def check_labels(self, labels: Tensor) -> None:
        """Raise if the loss can learn nothing from a batch with these labels, or would go wrong on it.

        For concrete labels, such as the first batch's; traced ones pass. See `keras_dml.losses.unusable_batches`.

        Args:
            labels: `(n,)` or `(n, 1)` integers, the labels of one batch.

        Raises:
            ValueError: for a loss of pairs, if all labels differ or all are the same; for a loss with a weight for
                each class, if a label has none.
        """
        if self.uses_keys:
            unusable_batches.check_pairs(labels, type(self).__name__, self.needs_negatives)
        if self.num_classes is not None:
            unusable_batches.check_class_range(labels, self.num_classes, type(self).__name__)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Called by `MetricLearner` at the end of a training epoch; wrappers hand it to their inner loss.

        The base class judges the epoch, see `keras_dml.losses.unusable_batches`. A subclass that overrides this may add
        to the logs, and calls `super().on_epoch_end(epoch, logs)`.

        Args:
            epoch: number of the epoch, from 0.
            logs: means over the epoch by name, and how many steps had which pairs (`unusable_batches.STEPS_WITH`).

        Raises:
            ValueError: to end training with an error.
            NothingLeftToLearn: to end it without one.
        """
        unusable_batches.judge_epoch(self, epoch, logs)

    def add_weight(self, *args: Any, autocast: bool = False, **kwargs: Any) -> keras.Variable:
        """As in Keras, but the weight keeps its type wherever the loss is computed."""
        return super().add_weight(*args, autocast=autocast, **kwargs)

    def build(self, labels_shape: Shape, embeddings_shape: Shape) -> None:
        if getattr(self, "built", False):
            return
        embedding_dim = embeddings_shape[-1]
        if embedding_dim is None:
            raise ValueError(
                "The width of the embeddings must be known to build a loss. "
                f"Received: shape={tuple(embeddings_shape)}. Give the encoder's last layer a fixed number of units."
            )
        self.add_weights(int(embedding_dim))
        self.built = True

    def compute(self, batch: EmbeddingBatch) -> LossOutput:
        """Everything the loss knows about a batch; builds the loss on first use.

        Args:
            batch: see `EmbeddingBatch.create`.

        Raises:
            ValueError: if the loss needs a pair scorer and the batch has none, and eagerly for labels that the loss has
                no weights for.
        """
        if self.needs_pair_scorer and batch.pair_scorer is None:
            raise ValueError(
                f"{type(self).__name__} needs a `pair_scorer` layer. Received: pair_scorer=None. "
                "Pass one, for example MetricLearner(..., pair_scorer=PDDMUnit())."
            )
        if not self.built:
            self.build((None,), (None, batch.embeddings.shape[1]))
        # As where Keras calls a layer. TensorFlow orders some sums by the names of their operations, so that another
        # scope would change last bits.
        with keras.name_scope(self.name):
            batch = batch.cast(self.compute_dtype)
            output = LossOutput(*self.compute_loss(batch))
            loss = output.loss
            if self.num_classes is not None:
                loss = unusable_batches.nan_outside(loss, batch.labels, self.num_classes, type(self).__name__)
            pairs = output.pairs
            if pairs is None and self.uses_keys:
                pairs = unusable_batches.pair_status(batch, output.loss, output.key_counts, self.needs_negatives)
        return LossOutput(loss, output.key_counts, dict(output.statistics), pairs)

    def __call__(self, labels: Tensor, embeddings: Tensor, **kwargs: Any) -> Tensor:
        # Keras takes tensors and arrays only; plain lists are handy in a notebook.
        if isinstance(labels, list | tuple):
            labels = np.asarray(labels)
        if isinstance(embeddings, list | tuple):
            embeddings = np.asarray(embeddings)
        kwargs = rename_arguments(type(self).__name__, kwargs, {"similarity": "pair_scorer"})
        # Before Keras makes tensors of them.
        for name, integer in {"labels": labels, **kwargs}.items():
            integers.check_width(integer, name)
        if "return_usage" in kwargs or "return_statistics" in kwargs:
            return self._call_as_before(labels, embeddings, **kwargs)
        return super().__call__(labels, embeddings, **kwargs)

    def _call_as_before(
        self,
        labels: Tensor,
        embeddings: Tensor,
        return_usage: bool = False,
        return_statistics: bool = False,
        training: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """A call with the older `return_usage` and `return_statistics`."""
        warn_renamed(
            "`loss(..., return_usage=..., return_statistics=...)`", "`loss.compute(EmbeddingBatch.create(...))`"
        )
        output = self.compute(EmbeddingBatch.create(labels, embeddings, training=bool(training), **kwargs))
        extras = [*([output.key_counts] if return_usage else []), *([output.statistics] if return_statistics else [])]
        return (output.loss, *extras) if extras else output.loss

    def call(
        self,
        labels: Tensor,
        embeddings: Tensor,
        keys: Tensor | None = None,
        key_labels: Tensor | None = None,
        ids: Tensor | None = None,
        key_ids: Tensor | None = None,
        pair_scorer: Callable[..., Tensor] | None = None,
        training: bool | None = None,
    ) -> Tensor:
        batch = EmbeddingBatch.create(
            labels, embeddings, keys, key_labels, ids, key_ids, pair_scorer, training=bool(training)
        )
        return self.compute(batch).loss

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "loss_learning_rate": self.loss_learning_rate}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "EmbeddingLoss":
        return super().from_config({cls.renamed_arguments.get(name, name): value for name, value in config.items()})
