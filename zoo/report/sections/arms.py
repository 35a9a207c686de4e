"""A table of an experiment's arms beside their rivals."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

from zoo.compare import ranked_by
from zoo.report.experiment import SavedExperiment
from zoo.report.sections.metrics import published_figures
from zoo.report.sections.section import Section
from zoo.tables import mean_and_spread
from zoo.titles import short_title


@dataclasses.dataclass(frozen=True)
class ArmRow:
    """A row of the table.

    Args:
        name: The arm, or what it is compared with.
        seeds: How many values each mean is of.
        cells: Mean ± standard deviation in per cent for each metric, "-" where it was not measured.
        rival: Whether it is no arm.
        published: The arm's published figure, in per cent, or None.
    """

    name: str
    seeds: int
    cells: list[str]
    rival: bool
    published: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class ArmsSection(Section):
    """The arms.

    Args:
        columns: Titles of the metrics.
        rows: Rivals, then arms.
        published_title: Title of the metric that was published; None if nothing was.
        source: Where the published figures stand.
        seeds: The seeds, in words.
        missing: Runs that have not finished.
        subset: Whether only part of the data was measured.
        distances: By which distance each arm is ranked, in words; None where all are ranked by the same.
    """

    key: ClassVar[str] = "arms"
    heading: ClassVar[str] = "Arms"
    columns: list[str]
    rows: list[ArmRow]
    published_title: str | None
    source: str | None
    seeds: str
    missing: list[str]
    subset: bool
    distances: str | None


def arms_section(experiment: SavedExperiment) -> ArmsSection:
    """Means and standard deviations over seeds, at the last epoch."""
    groups = experiment.groups()
    metrics = list(dict.fromkeys(name for group in groups for values in group.values.values() for name in values))
    configs = [runs[0].config for runs in experiment.arms.values()]
    subset, figures = any(published_figures(config)[0] for config in configs), {}
    for arm, config in zip(experiment.arms, configs, strict=True):
        if not subset:
            figures[arm] = published_figures(config)[1]
    published = next((name for each in figures.values() for name in each.get("metrics", {})), None)
    if any("recall@1" in each.get("metrics", {}) for each in figures.values()):
        published = "recall@1"
    rows = [_row(name, values, metrics) for name, values in experiment.rivals.items()]
    for group in groups:
        values = {name: [one[name] for one in group.values.values() if name in one] for name in metrics}
        figure = figures.get(group.name, {}).get("metrics", {}).get(published)
        rows.append(dataclasses.replace(_row(group.name, values, metrics), rival=False, published=figure))
    return ArmsSection(
        columns=list(map(short_title, metrics)),
        rows=rows,
        published_title=None if published is None else short_title(published),
        source=next((each["source"] for each in figures.values() if each.get("source")), None),
        seeds=", ".join(map(str, sorted({seed for group in groups for seed in group.values}))),
        missing=list(experiment.missing),
        subset=subset,
        distances=ranked_by(groups),
    )


def _row(name: str, values: Mapping[str, Sequence[float]], metrics: Sequence[str]) -> ArmRow:
    cells = [mean_and_spread(values[metric], 100, 1) if values.get(metric) else "-" for metric in metrics]
    return ArmRow(name, max((len(each) for each in values.values()), default=0), cells, True, None)
