"""Losses over embeddings, as Keras layers."""

from typing import Any

import keras

from keras_dml.losses.arcface_loss import ArcFaceLoss
from keras_dml.losses.circle_loss import CircleLoss
from keras_dml.losses.contrastive_loss import ContrastiveLoss
from keras_dml.losses.cosface_loss import CosFaceLoss
from keras_dml.losses.cross_batch_memory import CrossBatchMemory
from keras_dml.losses.double_header_hinge import DoubleHeaderHinge
from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.function_loss import FunctionLoss
from keras_dml.losses.generalized_lifted_structure_loss import GeneralizedLiftedStructureLoss
from keras_dml.losses.loss_output import LossOutput, PairStatus
from keras_dml.losses.margin_loss import MarginLoss
from keras_dml.losses.matryoshka_loss import MatryoshkaLoss
from keras_dml.losses.multi_similarity_loss import MultiSimilarityLoss
from keras_dml.losses.n_pair_loss import NPairLoss
from keras_dml.losses.normalized_softmax_loss import NormalizedSoftmaxLoss
from keras_dml.losses.proxy_anchor_loss import ProxyAnchorLoss
from keras_dml.losses.proxy_loss import ProxyLoss
from keras_dml.losses.proxy_nca_loss import ProxyNCALoss
from keras_dml.losses.recall_at_k_surrogate_loss import RecallAtKSurrogateLoss
from keras_dml.losses.registry import LOSSES, get, loss_class, names, register_loss
from keras_dml.losses.sampled_triplet_loss import SampledTripletLoss
from keras_dml.losses.smooth_ap_loss import SmoothAPLoss
from keras_dml.losses.soft_triple_loss import SoftTripleLoss
from keras_dml.losses.spherical_embedding_constraint import SphericalEmbeddingConstraint
from keras_dml.losses.subcenter_arcface_loss import SubCenterArcFaceLoss
from keras_dml.losses.sup_con_loss import SupConLoss
from keras_dml.losses.tf_similarity_loss import TFSimilarityLoss, similarity
from keras_dml.losses.triplet_loss import TripletLoss
from keras_dml.losses.unusable_batches import NothingLeftToLearn
from keras_dml.losses.wrapper_loss import WrapperLoss
from keras_dml.utils.deprecation import renamed_attributes
from keras_dml.utils.registry import import_modules

__all__ = [
    "ArcFaceLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CrossBatchMemory",
    "DoubleHeaderHinge",
    "EmbeddingBatch",
    "EmbeddingLoss",
    "FunctionLoss",
    "GeneralizedLiftedStructureLoss",
    "LossOutput",
    "MarginLoss",
    "MatryoshkaLoss",
    "MultiSimilarityLoss",
    "NPairLoss",
    "NormalizedSoftmaxLoss",
    "NothingLeftToLearn",
    "PairStatus",
    "ProxyAnchorLoss",
    "ProxyLoss",
    "ProxyNCALoss",
    "RecallAtKSurrogateLoss",
    "SampledTripletLoss",
    "SmoothAPLoss",
    "SoftTripleLoss",
    "SphericalEmbeddingConstraint",
    "SubCenterArcFaceLoss",
    "SupConLoss",
    "TFSimilarityLoss",
    "TripletLoss",
    "WrapperLoss",
    "get",
    "loss_class",
    "names",
    "register_loss",
    "similarity",
]

# The imports above are for type checkers and readers. A new loss needs none: its file registers it.
import_modules(__name__)

_renamed = renamed_attributes(__name__, {"SimilarityLoss": "TFSimilarityLoss", "TupleLoss": "SampledTripletLoss"})
# Saved models name the class as it was called.
keras.saving.get_custom_objects()["keras_dml>SimilarityLoss"] = TFSimilarityLoss


def __getattr__(name: str) -> Any:
    found = LOSSES.defined_in(__name__)
    return found[name] if name in found else _renamed(name)
