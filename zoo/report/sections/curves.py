"""Learning curves of all arms and seeds."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from zoo.figures import Curve, from_untrained
from zoo.report.charts import Chart, curve_chart
from zoo.report.evaluated import history_by_epoch
from zoo.report.experiment import SavedExperiment
from zoo.report.sections.section import Section
from zoo.titles import title

HEADLINE = ("val_recall@1", "val_map@r")


@dataclasses.dataclass(frozen=True, eq=False)
class CurvesSection(Section):
    """Charts by epoch, every one with all arms that logged what it shows.

    Args:
        charts: Recall@1 and MAP@R on the test classes.
        others: The other logs.
        several_seeds: Whether there is a spread to see.
    """

    key: ClassVar[str] = "curves"
    heading: ClassVar[str] = "Learning curves"
    charts: list[Chart]
    others: list[Chart]
    several_seeds: bool


def curves_section(experiment: SavedExperiment) -> CurvesSection | None:
    """The logs of all runs; None where no run has any."""
    histories = {arm: [history_by_epoch(run) for run in runs] for arm, runs in experiment.arms.items()}
    names = list(dict.fromkeys(name for runs in histories.values() for history in runs for name in history))
    charts = []
    for name in (*(name for name in HEADLINE if name in names), *(name for name in names if name not in HEADLINE)):
        metric = name.removeprefix("val_")
        start = experiment.untrained(metric) if name.startswith("val_") else np.nan
        # A rival that is not trained has the same value at every epoch.
        rivals = {
            rival: float(np.mean(values[metric])) for rival, values in experiment.rivals.items() if values.get(metric)
        }
        curves = [
            from_untrained(_curve(arm, [history[name] for history in runs], number), start)
            for number, (arm, runs) in enumerate(histories.items())
            if all(name in history for history in runs)
        ]
        heading = f"{title(metric)}, unseen classes" if name.startswith("val_") else title(metric)
        charts.append((name, curve_chart(curves, heading, rivals if name.startswith("val_") else None)))
    if not charts:
        return None
    return CurvesSection(
        charts=[chart for name, chart in charts if name in HEADLINE],
        others=[chart for name, chart in charts if name not in HEADLINE],
        several_seeds=any(len(runs) > 1 for runs in experiment.arms.values()),
    )


def _curve(arm: str, lines: Sequence[dict[int, float]], number: int) -> Curve:
    """The curve of arm `number` over the epochs that all its seeds have."""
    epochs = [epoch for epoch in lines[0] if all(epoch in line for line in lines)]
    return Curve(arm, epochs, np.array([[line[epoch] for epoch in epochs] for line in lines], dtype=float), number)
