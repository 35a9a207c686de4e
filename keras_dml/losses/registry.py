"""Losses by name."""

import inspect
from typing import Any, Final

import keras

from keras_dml.losses.arcface_loss import ArcFaceLoss
from keras_dml.losses.contrastive_loss import ContrastiveLoss
from keras_dml.losses.cross_batch_memory import CrossBatchMemory
from keras_dml.losses.double_header_hinge import DoubleHeaderHinge
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.function_loss import FunctionLoss
from keras_dml.losses.generalized_lifted_structure_loss import GeneralizedLiftedStructureLoss
from keras_dml.losses.margin_loss import MarginLoss
from keras_dml.losses.multi_similarity_loss import MultiSimilarityLoss
from keras_dml.losses.n_pair_loss import NPairLoss
from keras_dml.losses.normalized_softmax_loss import NormalizedSoftmaxLoss
from keras_dml.losses.proxy_anchor_loss import ProxyAnchorLoss
from keras_dml.losses.proxy_nca_loss import ProxyNCALoss
from keras_dml.losses.similarity_loss import SimilarityLoss, is_similarity_loss
from keras_dml.losses.spherical_embedding_constraint import SphericalEmbeddingConstraint
from keras_dml.losses.sup_con_loss import SupConLoss
from keras_dml.losses.triplet_loss import TripletLoss
from keras_dml.utils.suggestions import unknown_name

_CLASSES: Final[dict[str, type[EmbeddingLoss]]] = {
    "arcface": ArcFaceLoss,
    "contrastive": ContrastiveLoss,
    "cross_batch_memory": CrossBatchMemory,
    "double_header_hinge": DoubleHeaderHinge,
    "generalized_lifted_structure": GeneralizedLiftedStructureLoss,
    "margin": MarginLoss,
    "multi_similarity": MultiSimilarityLoss,
    "n_pair": NPairLoss,
    "normalized_softmax": NormalizedSoftmaxLoss,
    "proxy_anchor": ProxyAnchorLoss,
    "proxy_nca": ProxyNCALoss,
    "spherical_embedding_constraint": SphericalEmbeddingConstraint,
    "sup_con": SupConLoss,
    "triplet": TripletLoss,
}


def names() -> tuple[str, ...]:
    """The names `get` knows."""
    return tuple(_CLASSES)


def loss_class(name: str) -> type[EmbeddingLoss]:
    """The class of the loss called `name`; an unknown name lists the known ones, the nearest first."""
    if name not in _CLASSES:
        raise ValueError(unknown_name("loss", name, _CLASSES))
    return _CLASSES[name]


def get(identifier: Any) -> EmbeddingLoss:
    """A loss from a name, a configuration or an object.

    Args:
        identifier: a loss of this package (returned as it is), a name such as "margin" (built with its defaults), a
            serialised loss, a tensorflow-similarity loss, a Keras loss, or a function of labels and embeddings.

    Raises:
        ValueError: for an unknown name (the known ones are listed, the nearest first), for a loss class in place of
            an instance, for anything else.
    """
    if isinstance(identifier, EmbeddingLoss):
        return identifier
    if isinstance(identifier, type):
        raise ValueError(f"A loss must be an instance. Received: the class {identifier.__name__}. Call it first.")
    if isinstance(identifier, str):
        loss = loss_class(identifier)
        required = [
            name
            for name, parameter in inspect.signature(loss).parameters.items()
            if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        if required:
            arguments = ", ".join(f"{name}=..." for name in required)
            raise ValueError(
                f"The loss {identifier!r} has no default for {', '.join(required)}. "
                f"Pass an object: keras_dml.losses.{loss.__name__}({arguments})"
            )
        return loss()
    if isinstance(identifier, dict):
        return get(keras.saving.deserialize_keras_object(identifier))
    if is_similarity_loss(identifier):
        return SimilarityLoss.from_instance(identifier)
    if callable(identifier):
        return FunctionLoss(identifier)
    raise ValueError(
        "A loss must be a name, a configuration, a loss object or a function of labels and embeddings. "
        f"Received: {identifier!r}"
    )
