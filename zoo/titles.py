"""What metrics and logs are called for people: the one place that knows."""

import re

TITLES = {
    # Metrics of `keras_dml.evaluation`.
    "map@r": "MAP@R",
    "r_precision": "R-precision",
    "map@1000": "mAP@1000, divided by R",
    "map@1000_reference": "mAP@1000, divided by R + 1 (DAS authors' code)",
    "mrr": "Mean reciprocal rank",
    "nmi": "NMI of k-means",
    "ami": "AMI of k-means",
    "f1": "F1 of k-means",
    "intra_class_distance": "Distance within classes",
    "inter_class_distance": "Distance between class centers",
    "intra_over_inter": "Within / between",
    "spectral_decay": "Spectral decay",
    "spectral_decay_without_first": "Spectral decay without the largest value",
    # Logs of `MetricLearner.fit`.
    "loss": "Loss",
    "learning_rate": "Learning rate",
    "active_pairs": "Active pairs per step",
    "produced_distance": "Distance of produced embeddings",
    "produced_share": "Share of produced embeddings in active pairs",
    "bank_fill": "Filled share of the transformation bank",
    "score_gap": "Gap between scores of positive and negative pairs",
    "active_hinges": "Share of active score hinges",
    "embedding_spread": "Spread of the embeddings",
}


def title(name: str) -> str:
    """A metric's or log's name as a heading; a log of validation has the same title as that of training."""
    name = name.removeprefix("val_")
    at_width = re.fullmatch(r"d(\d+)_(.+)", name)
    if at_width:
        return f"{title(at_width[2])}, first {at_width[1]} channels"
    if "@" in name and name not in TITLES:
        return name.replace("recall@", "Recall@").replace("precision@", "Precision@")
    return TITLES.get(name) or name.replace("_", " ").capitalize()


def short_title(name: str) -> str:
    """A metric's name as the head of a column."""
    at_width = re.fullmatch(r"d(\d+)_(.+)", name)
    if at_width:
        return f"{short_title(at_width[2])}, d={at_width[1]}"
    return name.replace("recall", "Recall") if name.startswith("recall") else name.upper()
