"""Paired differences of an experiment's arms to the first of them."""

import dataclasses
from typing import ClassVar

from zoo.compare import compare, wording
from zoo.report.experiment import SavedExperiment
from zoo.report.sections.section import Section
from zoo.titles import short_title

FIRST_TABLES = 2
"""Metrics that are shown at once; the others are unfolded."""
HEADLINE = ("recall@1", "map@r")


@dataclasses.dataclass(frozen=True)
class DifferenceRow:
    """An arm against the first.

    Args:
        arm: Its name.
        mean: Mean difference, of shares.
        low: Lower end of its 95 % interval; NaN with one seed, or with the same difference at every seed.
        high: The upper end.
        words: What the seeds allow to say.
        seeds: Seeds that both arms have.
    """

    arm: str
    mean: float
    low: float
    high: float
    words: str
    seeds: int


@dataclasses.dataclass(frozen=True, eq=False)
class DifferencesSection(Section):
    """A table for each metric.

    Args:
        baseline: The first arm.
        tables: Title of each metric, and the arms' rows.
        shown: How many of the tables are not to be unfolded.
        unpaired: Arms without a seed in common with the first.
        tests: Number of differences.
        fewest: Least number of seeds behind one.
    """

    key: ClassVar[str] = "differences"
    heading: ClassVar[str] = "Paired differences"
    baseline: str
    tables: list[tuple[str, list[DifferenceRow]]]
    shown: int
    unpaired: list[str]
    tests: int
    fewest: int


def differences_section(experiment: SavedExperiment) -> DifferencesSection | None:
    """Differences seed by seed, as `zoo.compare` takes them; None with one arm."""
    first, *others = experiment.groups()
    paired = [group for group in others if set(first.values) & set(group.values)]
    if not others:
        return None
    runs = [values for group in (first, *paired) for values in group.values.values()]
    shared = [name for name in runs[0] if all(name in values for values in runs)]
    order = sorted(shared, key=lambda name: HEADLINE.index(name) if name in HEADLINE else len(HEADLINE))
    tables, fewest = [], 0
    for metric in order if paired else ():
        rows = []
        for group in paired:
            one = compare(first, group, metric)
            rows.append(DifferenceRow(group.name, one.mean, *one.interval, wording(one), len(one.seeds)))
        fewest = min(row.seeds for row in rows)
        tables.append((short_title(metric), rows))
    return DifferencesSection(
        baseline=first.name,
        tables=tables,
        shown=FIRST_TABLES,
        unpaired=[group.name for group in others if group not in paired],
        tests=len(paired) * len(order),
        fewest=fewest,
    )
