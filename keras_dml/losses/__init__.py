"""Losses over embeddings, as Keras layers."""

from keras_dml.losses.arcface_loss import ArcFaceLoss
from keras_dml.losses.contrastive_loss import ContrastiveLoss
from keras_dml.losses.cross_batch_memory import CrossBatchMemory
from keras_dml.losses.double_header_hinge import DoubleHeaderHinge
from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.function_loss import FunctionLoss
from keras_dml.losses.generalized_lifted_structure_loss import GeneralizedLiftedStructureLoss
from keras_dml.losses.margin_loss import MarginLoss
from keras_dml.losses.multi_similarity_loss import MultiSimilarityLoss
from keras_dml.losses.n_pair_loss import NPairLoss
from keras_dml.losses.normalized_softmax_loss import NormalizedSoftmaxLoss
from keras_dml.losses.proxy_anchor_loss import ProxyAnchorLoss
from keras_dml.losses.proxy_loss import ProxyLoss
from keras_dml.losses.proxy_nca_loss import ProxyNCALoss
from keras_dml.losses.registry import get, loss_class, names
from keras_dml.losses.similarity_loss import SimilarityLoss, similarity
from keras_dml.losses.spherical_embedding_constraint import SphericalEmbeddingConstraint
from keras_dml.losses.sup_con_loss import SupConLoss
from keras_dml.losses.triplet_loss import TripletLoss
from keras_dml.losses.tuple_loss import TupleLoss
from keras_dml.losses.wrapper_loss import WrapperLoss

__all__ = [
    "ArcFaceLoss",
    "ContrastiveLoss",
    "CrossBatchMemory",
    "DoubleHeaderHinge",
    "EmbeddingBatch",
    "EmbeddingLoss",
    "FunctionLoss",
    "GeneralizedLiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NPairLoss",
    "NormalizedSoftmaxLoss",
    "ProxyAnchorLoss",
    "ProxyLoss",
    "ProxyNCALoss",
    "SimilarityLoss",
    "SphericalEmbeddingConstraint",
    "SupConLoss",
    "TripletLoss",
    "TupleLoss",
    "WrapperLoss",
    "get",
    "loss_class",
    "names",
    "similarity",
]
