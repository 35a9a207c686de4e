"""The page about an experiment."""

import pathlib
from collections.abc import Mapping

from zoo.report.experiment import SavedExperiment
from zoo.report.rendering import Page
from zoo.report.sections.arms import arms_section
from zoo.report.sections.curves import curves_section
from zoo.report.sections.differences import differences_section
from zoo.report.sections.recipe import recipe_section
from zoo.report.sections.runs import runs_section
from zoo.report.sections.side_by_side import SideBySide
from zoo.runs import ExperimentFolder


def experiment_page(
    experiment: SavedExperiment,
    neighbors: SideBySide,
    pages: Mapping[pathlib.Path, pathlib.Path],
    output: pathlib.Path,
) -> Page:
    """All arms and seeds on one page.

    Args:
        experiment: The experiment.
        neighbors: What each arm's first run retrieves.
        pages: Run folder -> its page.
        output: Where this page goes.
    """
    sections = (
        arms_section(experiment),
        differences_section(experiment),
        curves_section(experiment),
        neighbors.section(),
        runs_section(experiment, pages, output),
        recipe_section(ExperimentFolder(experiment.folder).config.name, experiment.config),
    )
    return Page(f"{experiment.name}: all arms", [section for section in sections if section is not None])
