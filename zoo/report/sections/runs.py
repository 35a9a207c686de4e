"""Links to the pages of an experiment's runs."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote

from zoo.report.experiment import SavedExperiment, seed_of
from zoo.report.sections.section import Section


@dataclasses.dataclass(frozen=True)
class RunLink:
    """A run.

    Args:
        arm: Its arm.
        seed: Its seed.
        href: Its page, relative to this one, or None.
    """

    arm: str
    seed: int
    href: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class RunsSection(Section):
    """All finished runs.

    Args:
        arms: The runs of each arm.
    """

    key: ClassVar[str] = "runs"
    heading: ClassVar[str] = "Pages of the runs"
    arms: list[tuple[str, list[RunLink]]]


def runs_section(
    experiment: SavedExperiment, pages: Mapping[pathlib.Path, pathlib.Path], output: pathlib.Path
) -> RunsSection:
    """Links to the runs that have a page.

    Args:
        experiment: The experiment.
        pages: Run folder -> its page, somewhere below the folder of `output`.
        output: The page that links to them.
    """

    def link(folder: pathlib.Path) -> str | None:
        page = pages.get(folder)
        return None if page is None else quote(page.relative_to(output.parent).as_posix())

    return RunsSection(
        [(arm, [RunLink(arm, seed_of(run), link(run.folder)) for run in runs]) for arm, runs in experiment.arms.items()]
    )
