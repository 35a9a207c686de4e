"""Callbacks for `fit`."""

from keras_dml.callbacks.retrieval_evaluation import RetrievalEvaluation

__all__ = ["RetrievalEvaluation"]
