"""Headline metrics of a run."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from zoo.evaluate import record
from zoo.record import changed_settings_of_run
from zoo.report.evaluated import EvaluatedRun
from zoo.report.sections.section import Section
from zoo.titles import title

CLUSTERED = 20000
"""k-means on more queries takes minutes; the run's own metrics are shown instead."""


@dataclasses.dataclass(frozen=True)
class Card:
    """A headline metric.

    Args:
        title: Its name.
        value: In [0, 1].
        interval: Ends of its 95 % interval over classes, or None.
        published: The published figure in per cent, or None.
        untrained: The untrained network's value, or None.
    """

    title: str
    value: float
    interval: tuple[float, float] | None
    published: float | None
    untrained: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class MetricsSection(Section):
    """Headline metrics as cards, all others in a table.

    Args:
        cards: The headline.
        others: Title and value of every other metric; None for a value that is not finite.
        queries: Number of queries.
        classes: Number of their classes.
        gallery: Number of images in the gallery.
        metric: The distance.
        singletons: Queries that are left out.
        subset: Whether only part of the data was measured.
        changed: Settings other than the recipe's, in words; empty if there are none.
        recipe: The recipe's name.
        source: Where the published figures stand, or None.
    """

    key: ClassVar[str] = "metrics"
    heading: ClassVar[str] = "Headline metrics"
    cards: list[Card]
    others: list[tuple[str, float | None]]
    queries: int
    classes: int
    gallery: int
    metric: str
    singletons: int
    subset: bool
    changed: str
    recipe: str
    source: str | None


def metrics_section(evaluated: EvaluatedRun) -> MetricsSection:
    """Measures everything that is measured of a run."""
    run, result = evaluated.run, evaluated.result
    numbers = record(result, clustering=len(result.labels) <= CLUSTERED)
    values = numbers["metrics"]
    if "nmi" not in values and "nmi" in run.metrics.get("last", {}):
        values["nmi"] = run.metrics["last"]["nmi"]
    subset, published = published_figures(run.config)
    figures, untrained = published.get("metrics", {}), run.metrics.get("untrained", {})
    headline = [*(f"recall@{k}" for k in result.ks), "map@r", "r_precision", "mrr", "nmi", "f1"]

    def card(name: str) -> Card:
        low, high = numbers["confidence_95"].get(name, (None, None))
        interval = None if low is None else (low, high)
        return Card(title(name), values[name], interval, figures.get(name), untrained.get(name))

    return MetricsSection(
        cards=[card(name) for name in headline if values.get(name) is not None],
        others=[(title(name), value) for name, value in values.items() if name not in headline],
        queries=len(result.labels),
        classes=len(np.unique(result.labels)),
        gallery=len(result.gallery_labels),
        metric=result.metric,
        singletons=result.num_singletons,
        subset=subset,
        changed=", ".join(changed_settings_of_run(run.config)),
        recipe=run.name,
        source=published.get("source"),
    )


def published_figures(config: Mapping[str, Any]) -> tuple[bool, Mapping[str, Any]]:
    """Whether a run was measured on part of the data, and if not, what was published of its arm.

    Args:
        config: The run's run.json.
    """
    subset = bool((config.get("data") or {}).get("subset", False))
    # On part of the data a published figure would say nothing.
    return subset, {} if subset else config.get("recipe", {}).get("published") or {}
