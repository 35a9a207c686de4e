"""Learning curves of a run."""

import dataclasses
from typing import ClassVar

from zoo.report.charts import Chart, line_chart
from zoo.report.evaluated import EvaluatedRun, history_by_epoch
from zoo.report.sections.section import Section
from zoo.titles import title

RECALL = "Recall on held-out classes"


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingSection(Section):
    """A chart for each log.

    Args:
        charts: The charts.
    """

    key: ClassVar[str] = "training"
    heading: ClassVar[str] = "Learning curves"
    charts: list[Chart]


def training_section(evaluated: EvaluatedRun) -> TrainingSection | None:
    """Charts of what was logged; None without a history."""
    groups: dict[str, dict[str, dict[int, float]]] = {}
    for name, line in history_by_epoch(evaluated.run).items():
        short = name.removeprefix("val_")
        # A loss of training and its like in validation share their axes, and so do all ranks of recall.
        line_name = f"{title(name)}, validation" if name != short and short in evaluated.run.history else title(name)
        groups.setdefault(RECALL if short.startswith("recall@") else title(short), {})[line_name] = line
    return TrainingSection([line_chart(lines, kind) for kind, lines in groups.items()]) if groups else None
