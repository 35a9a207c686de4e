"""Scores of pairs by the PDDM unit."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from zoo.report.charts import Chart, histogram
from zoo.report.evaluated import EvaluatedRun
from zoo.report.sections.section import Section

SAMPLE = 512
SCORES = 20000


@dataclasses.dataclass(frozen=True, eq=False)
class PDDMSection(Section):
    """Scores of positive and negative pairs.

    Args:
        problem: Why there are no scores; None if there are.
        images: How many test images were paired.
        area: Share of positive and negative pairs in the right order.
        scores: Histogram of both kinds; None without scores.
    """

    key: ClassVar[str] = "pddm"
    heading: ClassVar[str] = "PDDM scores"
    problem: str | None
    images: int = 0
    area: float = 0.0
    scores: Chart | None = None


def pddm_section(evaluated: EvaluatedRun) -> PDDMSection | None:
    """Scores pairs of a few hundred test images; None if the run has no pair scorer."""
    path, random = evaluated.run.files.pair_scorer, evaluated.random()
    if not path.is_file():
        return None
    from keras_dml.image_encoder import load_pair_scorer

    try:
        unit: Any = load_pair_scorer(path)
    except ValueError as error:
        return PDDMSection(str(error))
    rows = _whole_classes(evaluated.result.labels, random)
    labels = evaluated.result.labels[rows]
    scores = np.asarray(unit.pairwise(np.asarray(evaluated.queries.vectors[rows], np.float32)), np.float64)
    above = np.triu(np.ones_like(scores, bool), 1)
    same = labels[:, None] == labels[None, :]
    positive, negative = scores[above & same], scores[above & ~same]
    if not len(positive) or not len(negative):
        return PDDMSection("The sample holds only one kind of pair")
    # The share of positive-negative pairs in the right order (area under the ROC curve), by ranks.
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([positive, negative]))
    area = (ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative))
    groups = {
        "same class": random.choice(positive, min(SCORES, len(positive)), replace=False),
        "different classes": random.choice(negative, min(SCORES, len(negative)), replace=False),
    }
    chart = histogram(groups, "PDDM scores of positive and negative pairs", "score S")
    return PDDMSection(None, len(rows), float(area), chart)


def _whole_classes(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rows of a few hundred test images, whole classes, so that there are positive pairs."""
    chosen: list[np.ndarray] = []
    for label in random.permutation(np.unique(labels)):
        members = np.flatnonzero(labels == label)
        chosen.append(random.permutation(members)[: SAMPLE // 8])
        if sum(map(len, chosen)) >= SAMPLE:
            break
    return np.concatenate(chosen)
