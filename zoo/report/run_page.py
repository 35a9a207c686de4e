"""The page about one run."""

from zoo.report.evaluated import EvaluatedRun
from zoo.report.rendering import Page
from zoo.report.sections.classes import classes_section
from zoo.report.sections.confusion import confusion_section
from zoo.report.sections.das import das_section
from zoo.report.sections.embedding_map import map_section
from zoo.report.sections.metrics import metrics_section
from zoo.report.sections.pddm import pddm_section
from zoo.report.sections.queries import queries_section
from zoo.report.sections.recipe import recipe_section
from zoo.report.sections.training import training_section


def run_page(evaluated: EvaluatedRun, projection: str) -> Page:
    """Everything there is to see of a run.

    Args:
        evaluated: The run.
        projection: "tsne" or "pca", for the map.
    """
    sections = (
        metrics_section(evaluated),
        training_section(evaluated),
        queries_section(evaluated),
        map_section(evaluated, projection),
        classes_section(evaluated),
        confusion_section(evaluated),
        das_section(evaluated),
        pddm_section(evaluated),
        recipe_section(evaluated.run.files.config.name, evaluated.run.config),
    )
    return Page(evaluated.run.title, [section for section in sections if section is not None])
