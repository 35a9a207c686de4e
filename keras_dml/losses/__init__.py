"""Losses over embeddings, as Keras layers."""

from keras_dml.losses.embedding_batch import EmbeddingBatch
from keras_dml.losses.embedding_loss import EmbeddingLoss
from keras_dml.losses.function_loss import FunctionLoss
from keras_dml.losses.registry import get, names
from keras_dml.losses.similarity_loss import SimilarityLoss, similarity

__all__ = [
    "EmbeddingBatch",
    "EmbeddingLoss",
    "FunctionLoss",
    "SimilarityLoss",
    "get",
    "names",
    "similarity",
]
