"""Exact retrieval metrics, clustering metrics and class-disjoint validation of embeddings."""

from keras_dml.evaluation.clustering import Clustering, cluster_metrics
from keras_dml.evaluation.folds import (
    ClassFold,
    CrossValidation,
    class_folds,
    concatenate_embeddings,
    evaluate_folds,
)
from keras_dml.evaluation.geometry import Geometry, embedding_geometry
from keras_dml.evaluation.metric import check_metric, chosen_metric
from keras_dml.evaluation.neighbors import NeighborSearch, nearest_neighbors
from keras_dml.evaluation.prefixes import at_widths, prefix
from keras_dml.evaluation.projector import write_projector
from keras_dml.evaluation.retrieval import RetrievalOptions, evaluate_retrieval
from keras_dml.evaluation.retrieval_result import RetrievalResult
from keras_dml.evaluation.revisited import RevisitedScores, revisited_map
from keras_dml.evaluation.uned import UnEDScores, uned_scores

__all__ = [
    "ClassFold",
    "Clustering",
    "CrossValidation",
    "Geometry",
    "NeighborSearch",
    "RetrievalOptions",
    "RetrievalResult",
    "RevisitedScores",
    "UnEDScores",
    "at_widths",
    "check_metric",
    "chosen_metric",
    "class_folds",
    "cluster_metrics",
    "concatenate_embeddings",
    "embedding_geometry",
    "evaluate_folds",
    "evaluate_retrieval",
    "nearest_neighbors",
    "prefix",
    "revisited_map",
    "uned_scores",
    "write_projector",
]
