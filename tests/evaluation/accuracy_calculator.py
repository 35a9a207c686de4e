"""Sets on which keras_dml's metrics are compared with pytorch-metric-learning's AccuracyCalculator.

The library's values stand in accuracy_calculator.json; to make them anew:

    pip install torch==2.13.0 pytorch-metric-learning==2.9.0 faiss-cpu==1.15.1
    python tests/evaluation/accuracy_calculator.py > tests/evaluation/accuracy_calculator.json
"""

import json

import numpy as np

METRICS = (
    "precision_at_1",
    "r_precision",
    "mean_average_precision",
    "mean_average_precision_at_r",
    "mean_reciprocal_rank",
)


def sets():
    """Name -> (embeddings, labels, gallery or None, gallery labels or None)."""

    def normal(seed, n, d, classes):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, classes, n)
        centers = rng.standard_normal((classes, d))
        return (centers[labels] + 1.5 * rng.standard_normal((n, d))).astype(np.float32), labels

    vectors, labels = normal(0, 300, 16, 12)
    made = {"random": (vectors, labels, None, None)}
    made["queries_and_gallery"] = (vectors[:100], labels[:100], vectors[100:], labels[100:])
    lone = labels.copy()
    lone[:40] = np.arange(100, 140)
    made["singletons"] = (vectors, lone, None, None)
    made["query_classes_without_gallery"] = (vectors[:100], lone[:100], vectors[100:], labels[100:])
    made["one_class"] = (vectors[:50], np.zeros(50, np.int64), None, None)
    made["all_singletons"] = (vectors[:30], np.arange(30), None, None)
    made["two_items"] = (vectors[:2], np.array([4, 4]), None, None)
    # Copies share a class, so no metric depends on the order in which a library lists them.
    made["duplicates"] = (np.repeat(vectors[:75], 4, axis=0), np.repeat(labels[:75], 4), None, None)
    made["copies_of_queries_in_gallery"] = (vectors[:90], labels[:90], vectors, labels)
    skewed = np.where(np.arange(300) < 220, 0, labels + 1)
    made["one_class_of_220"] = (vectors, skewed, None, None)
    large, large_labels = normal(1, 2600, 8, 2)
    made["classes_larger_than_1000"] = (large, large_labels, None, None)
    return made


def library_values():
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    table = {}
    for name, (embeddings, labels, gallery, gallery_labels) in sets().items():
        size = len(embeddings) - 1 if gallery is None else len(gallery)
        everything = AccuracyCalculator(include=METRICS, k=None)
        thousand = AccuracyCalculator(include=("mean_average_precision", "mean_reciprocal_rank"), k=min(1000, size))
        values = everything.get_accuracy(embeddings, labels, gallery, gallery_labels)
        values |= thousand.get_accuracy(embeddings, labels, gallery, gallery_labels)
        table[name] = {key: None if np.isnan(value) else value for key, value in values.items()}
    return table


if __name__ == "__main__":
    print(json.dumps(library_values(), indent=1))
