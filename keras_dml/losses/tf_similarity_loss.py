"""tensorflow-similarity's losses, made to work in Keras 3."""

import importlib
import inspect
from typing import Any, Final

import keras

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.loss_output import LossOutput
from keras_dml.typing import Tensor
from keras_dml.utils.suggestions import unknown_name

SUPPORTED: Final = {
    "circle": "CircleLoss",
    "multi_similarity": "MultiSimilarityLoss",
    "pn": "PNLoss",
    "soft_nearest_neighbor": "SoftNearestNeighborLoss",
    "triplet": "TripletLoss",
}
_TWO_VIEWS = "it compares two views of each image and takes no labels; use keras_dml.losses.SupConLoss"
REFUSED: Final = {
    "MultiNegativesRankLoss": "it takes pairs of embeddings in place of labels; use keras_dml.losses.NPairLoss",
    "XBM": "its memory changes shape at every step, so it retraces and does not compile; use "
    "keras_dml.losses.CrossBatchMemory around a keras_dml loss",
    "SimCLRLoss": _TWO_VIEWS,
    "SimSiamLoss": _TWO_VIEWS,
    "Barlow": _TWO_VIEWS,
    "VicReg": _TWO_VIEWS,
}
OWN_KEYS_ONLY: Final = ("pn", "soft_nearest_neighbor")
REDUCTIONS: Final = ("sum_over_batch_size", "mean", "sum")


def _refusal(class_name: str) -> str:
    return f"tensorflow-similarity's {class_name} cannot be used here: {REFUSED[class_name]}."


def _key(name: str) -> str:
    return name.lower().replace("_", "").removesuffix("loss")


def _find(name: str) -> str:
    """The name in `SUPPORTED` that is meant: "pn" and "PNLoss" alike."""
    for known, class_name in SUPPORTED.items():
        if _key(name) in (_key(known), _key(class_name)):
            return known
    for class_name in REFUSED:
        # Their losses are called "multi_negatives_rank", "simclr" and so on, by class or by module.
        if _key(name) in (_key(class_name), "barlowtwins" if class_name == "Barlow" else None):
            raise ValueError(_refusal(class_name))
    raise ValueError(unknown_name("tensorflow-similarity loss", name, SUPPORTED))


def is_similarity_loss(loss: Any) -> bool:
    """Whether `loss` is an instance of a tensorflow-similarity loss, told without importing the library."""
    return any(
        cls.__module__.startswith("tensorflow_similarity.losses") and not isinstance(loss, type)
        for cls in type(loss).__mro__
    )


@keras.saving.register_keras_serializable(package="keras_dml")
class TFSimilarityLoss(EmbeddingLoss):
    """A supervised loss of tensorflow-similarity.

    The library's own loss function runs unchanged; its rows are averaged over the batch. TensorFlow backend only.
    Importing the library takes seconds, which is why it happens when the first such loss is made.

    With `keys`, multi-similarity, triplet and circle work where no self pair has to be excluded (keys without ids); PN
    and soft nearest neighbor assume that queries and keys are the same.

    Args:
        loss: "multi_similarity", "triplet", "circle", "pn" or "soft_nearest_neighbor".
        arguments: the library loss's own keyword arguments; `reduction` is "sum_over_batch_size" (the mean over the
            rows, the default) or "sum"; a `distance` is given by name.

    Raises:
        ValueError: for an unknown loss, one that has no place in supervised training here, or wrong arguments.
    """

    uses_ids = False

    def __init__(self, loss: str, arguments: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self_name = _find(loss)
        kwargs.setdefault("name", self_name)
        super().__init__(**kwargs)
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                f"tensorflow-similarity losses need the TensorFlow backend. Received: {keras.backend.backend()}. "
                f"Use a loss of keras_dml.losses instead."
            )
        import tensorflow as tf

        self.loss = self_name
        self.arguments = dict(arguments or {})
        options = dict(self.arguments)
        self._reduction = options.pop("reduction", None) or "sum_over_batch_size"
        if self._reduction not in REDUCTIONS:
            raise ValueError(
                f"`reduction` must be one of {', '.join(REDUCTIONS)}, since training needs a scalar. "
                f"Received: reduction={self._reduction!r}"
            )
        if not isinstance(options.get("distance", ""), str):
            self.arguments["distance"] = options["distance"] = _distance_name(options["distance"])
        library = importlib.import_module("tensorflow_similarity.losses")
        try:
            instance = getattr(library, SUPPORTED[self_name])(reduction="none", **options)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"tensorflow-similarity's {SUPPORTED[self_name]} does not take these arguments: {options}. {error}"
            ) from error
        function, function_arguments = instance.fn, instance._fn_kwargs
        known = list(inspect.signature(function).parameters)[4:]
        for argument in function_arguments:
            if argument not in known:
                raise ValueError(
                    f"tensorflow-similarity's {SUPPORTED[self_name]}: "
                    + unknown_name("argument", argument, [*known, "name", "reduction"])
                )
        self._remove_diagonal = function_arguments.pop("remove_diagonal", True)

        def rows(labels: Tensor, embeddings: Tensor, key_labels: Tensor, keys: Tensor, remove_diagonal: bool) -> Tensor:
            return function(labels, embeddings, key_labels, keys, remove_diagonal=remove_diagonal, **function_arguments)

        # Keras 3 calls a loss without autograph, while the library branches on tensors in Python.
        self._rows = tf.function(rows, autograph=True)

    @classmethod
    def from_instance(cls, loss: Any) -> "TFSimilarityLoss":
        """Adapt a tensorflow-similarity loss object.

        Raises:
            ValueError: for a loss of the library that cannot work here, and for a subclass of one.
        """
        class_name = type(loss).__name__
        if not type(loss).__module__.startswith("tensorflow_similarity."):
            raise ValueError(
                f"A subclass of a tensorflow-similarity loss cannot be adapted, since it could not be restored. "
                f"Received: {class_name}. Subclass keras_dml.losses.EmbeddingLoss, or pass a function of labels and "
                "embeddings."
            )
        if class_name in REFUSED:
            raise ValueError(_refusal(class_name))
        arguments = {**loss._fn_kwargs, "reduction": loss.reduction}
        arguments["distance"] = _distance_name(arguments["distance"])
        return cls(_find(class_name), arguments, name=loss.name)

    def compute_loss(self, batch: EmbeddingBatch) -> LossOutput:
        import tensorflow as tf

        if not batch.keys_are_queries and (batch.key_ids is not None or self.loss in OWN_KEYS_ONLY):
            raise ValueError(
                f"tensorflow-similarity's {SUPPORTED[self.loss]} takes no `keys`"
                + ("." if self.loss in OWN_KEYS_ONLY else " with ids: it cannot exclude self pairs or empty slots.")
                + " Use a loss of keras_dml.losses with keys, memories and replicas."
            )
        # With 1-D labels the result has no known rank, which Keras rejects.
        labels, key_labels = tf.reshape(batch.labels, (-1, 1)), tf.reshape(batch.key_labels, (-1, 1))
        rows = self._rows(
            labels,
            batch.embeddings,
            key_labels,
            batch.keys,
            remove_diagonal=batch.keys_are_queries and self._remove_diagonal,
        )
        rows = tf.reshape(rows, (-1,))
        return LossOutput(tf.reduce_sum(rows) if self._reduction == "sum" else tf.reduce_mean(rows))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "loss": self.loss, "arguments": dict(self.arguments)}


def _distance_name(distance: Any) -> str:
    """A library distance's name: its own configuration does not survive a round trip (0.17.1)."""
    if isinstance(distance, str):
        return distance
    library = importlib.import_module("tensorflow_similarity.distances")
    if type(distance) not in {type(known) for known in library.DISTANCES}:
        raise ValueError(
            f"Only the library's own distances can be restored with a model. Received: {type(distance).__name__}. "
            f"Use one of {', '.join(known.name for known in library.DISTANCES)}."
        )
    return next(known.name for known in library.DISTANCES if type(known) is type(distance))


def similarity(loss: str, **kwargs: Any) -> TFSimilarityLoss:
    """Build a supervised tensorflow-similarity loss that works in Keras 3, with `MetricLearner` and by itself.

    Args:
        loss: "multi_similarity", "triplet", "circle", "pn" or "soft_nearest_neighbor".
        **kwargs: the library loss's own arguments, as in `similarity("triplet", distance="cosine", margin=0.2)`.

    Raises:
        ValueError: as `TFSimilarityLoss`.
    """
    name = kwargs.pop("name", None)
    return TFSimilarityLoss(loss, kwargs, **({"name": name} if name else {}))
