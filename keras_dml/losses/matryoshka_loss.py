"""Matryoshka widths."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.function_loss import FunctionLoss
from keras_dml.losses.functional import l2_normalize
from keras_dml.losses.loss_output import LossOutput, PairStatus
from keras_dml.losses.registry import register_loss
from keras_dml.losses.wrapper_loss import WrapperLoss
from keras_dml.typing import Tensor


@register_loss("matryoshka")
@keras.saving.register_keras_serializable(package="keras_dml")
class MatryoshkaLoss(WrapperLoss):
    """Trains prefixes of the embedding to be embeddings themselves, by any loss.

    `sum_m c_m L_m(x[:, :m], y)` over the widths m: the loss of the first m channels, each width with a loss of its own
    (proxies, boundaries, memories and miners included) made from `loss`. Prefixes are scaled to unit length for losses
    that expect unit length, so the whole embedding may have it or not; a loss that expects other lengths, or takes
    either, gets them as they are. With DAS, produced embeddings are cut like real ones.

    `key_counts` are summed over the widths. Statistics of the inner loss are those of the widest, beside `loss_d8` and
    the like, the unweighted loss of each width. There is no width without a name: a width that shall be trained at its
    full length is named too, as in `widths=(8, 16, 32, 64)` for 64 channels.

    Args:
        loss: any loss that scores no pairs with a `pair_scorer`: what `keras_dml.losses.get` takes.
        widths: different numbers of channels, at most as many as the embedding has.
        weights: the factor c_m of each of them; 1 by default.

    Raises:
        ValueError: for widths that repeat or are not positive, weights that do not fit them, a loss that needs a
            `pair_scorer`; when built, for a width beyond the embedding's.

    Reference: Kusupati et al., "Matryoshka representation learning", NeurIPS 2022, equation 1 (there with a linear
    classifier of each width; c_m = 1, and each prefix normalized where the loss is contrastive: section 4).
    """

    def __init__(
        self,
        loss: Any,
        widths: Sequence[int],
        weights: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(loss, **kwargs)
        widths = tuple(widths)
        if not widths or len(set(widths)) < len(widths) or any(not _positive_integer(width) for width in widths):
            raise ValueError(f"`widths` must be one or more different positive integers. Received: widths={widths}")
        if weights is not None and (len(weights) != len(widths) or any(not weight > 0 for weight in weights)):
            raise ValueError(
                f"`weights` must be positive, one for each width. Received: weights={tuple(weights)}, widths={widths}"
            )
        if self.loss.needs_pair_scorer:
            raise ValueError(
                f"{type(self.loss).__name__} scores pairs with a layer made for one width of embeddings, so it cannot "
                "be wrapped in MatryoshkaLoss. Use another loss."
            )
        self.widths = tuple(int(width) for width in widths)
        self.weights_of_widths = (1.0,) * len(widths) if weights is None else tuple(float(one) for one in weights)
        # Unit length of the whole embedding is of no use to a prefix.
        self.normalized_inputs = False if self.loss.normalized_inputs is False else None
        self.statistics_names = (*self.loss.statistics_names, *(f"loss_d{width}" for width in self.widths))
        # The loss that was given is the widest's.
        self.inner_losses = [
            self.loss if width == max(self.widths) else _copy(self.loss, f"{self.loss.name}_d{width}")
            for width in self.widths
        ]

    def loss_of(self, width: int) -> EmbeddingLoss:
        """The loss, with its weights, that trains the first `width` channels."""
        return self.inner_losses[self.widths.index(width)]

    def add_weights(self, embedding_dim: int) -> None:
        if max(self.widths) > embedding_dim:
            raise ValueError(
                f"`widths` must be at most the width of the embeddings, {embedding_dim}. Received: widths={self.widths}"
            )
        for width in self.widths:
            inner = self.loss_of(width)
            if not inner.built:
                inner.build((None,), (None, width))

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        outputs = {width: self.loss_of(width).compute(self._prefix(batch, width)) for width in self.widths}
        weighted = zip(self.weights_of_widths, outputs.values(), strict=True)
        terms = [weight * output.loss for weight, output in weighted]
        counts = [output.key_counts for output in outputs.values() if output.key_counts is not None]
        pairs = [output.pairs for output in outputs.values() if output.pairs is not None]
        statistics = {
            **outputs[max(self.widths)].statistics,
            **{f"loss_d{width}": output.loss for width, output in outputs.items()},
        }
        return LossOutput(
            _total(terms),
            _total(counts) if counts else None,
            statistics,
            PairStatus(*(ops.max(ops.stack(flags)) for flags in zip(*pairs, strict=True))) if pairs else None,
        )

    def _prefix(self, batch: EmbeddingBatch, width: int) -> EmbeddingBatch:
        def cut(rows: Tensor) -> Tensor:
            prefix = rows[:, :width]
            return l2_normalize(prefix) if self.loss.normalized_inputs else prefix

        embeddings = cut(batch.embeddings)
        # Losses save work where the keys are the very tensor that the queries are.
        keys = embeddings if batch.keys_are_queries else cut(batch.keys)
        return dataclasses.replace(batch, embeddings=embeddings, keys=keys)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        for width in self.widths:
            self.loss_of(width).on_epoch_end(epoch, logs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "widths": list(self.widths), "weights": list(self.weights_of_widths)}


def _positive_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _total(terms: Sequence[Tensor]) -> Tensor:
    return sum(terms[1:], start=terms[0])


def _copy(loss: EmbeddingLoss, name: str) -> EmbeddingLoss:
    """Another loss like `loss`, which has not been built."""
    if isinstance(loss, FunctionLoss):
        # It has no weights, and a lambda cannot be serialized.
        return FunctionLoss(loss.function, name=name)
    return type(loss).from_config({**loss.get_config(), "name": name})
