"""Writes the pages."""

import pathlib

from keras_dml.utils.files import check_output, written_aside
from keras_dml.utils.progress import SILENT, Progress
from zoo.report.evaluated import evaluate_run
from zoo.report.experiment import open_experiment
from zoo.report.experiment_page import experiment_page
from zoo.report.rendering import Page, render
from zoo.report.run_page import run_page
from zoo.report.sections.side_by_side import SideBySide
from zoo.runs import ExperimentFolder, RunFolder, SavedRun, open_run


def write_report(
    folder: pathlib.Path | str,
    data_dir: pathlib.Path | None = None,
    output: pathlib.Path | None = None,
    projection: str = "tsne",
    seed: int = 0,
    progress: Progress = SILENT,
) -> pathlib.Path:
    """Writes the page about a run, or about an experiment and beside it those of each arm's first seed.

    Args:
        folder: A run folder or an experiment folder.
        data_dir: Where the benchmark's images are. Without them the pages have no thumbnails.
        output: The file; report.html in the folder by default. The pages of an experiment's runs then lie in the runs'
            folders, else beside the file, as NAME-ARM-seed-SEED.html.
        projection: "tsne" or "pca", for the maps.
        seed: Seed of samples and maps, and of the queries that arms are compared by.
        progress: Is told which run is done.

    Returns:
        The file written.

    Raises:
        ValueError: The folder holds neither or nothing that is finished, or `output` cannot be written.
    """
    folder = pathlib.Path(folder)
    if output is not None:
        check_output(output)
    files = RunFolder(folder)
    if files.config.is_file() or not ExperimentFolder(folder).config.is_file():
        run = open_run(folder)
        page = output or files.report
        check_output(page)
        return _write(run_page(evaluate_run(run, data_dir, seed), projection), page)
    experiment = open_experiment(folder)
    # An experiment's page has the name of a run's.
    target = output or files.report
    pages = {run.folder: _run_output(run, output) for run in experiment.first_runs.values()}
    for path in (target, *pages.values()):
        check_output(path)
    neighbors = SideBySide(seed)
    for done, (arm, run) in enumerate(experiment.first_runs.items()):
        progress.advance("pages of runs", done, len(pages), arm)
        evaluated = evaluate_run(run, data_dir, seed)
        neighbors.add(arm, evaluated)
        _write(run_page(evaluated, projection), pages[run.folder])
    progress.advance("pages of runs", len(pages), len(pages))
    return _write(experiment_page(experiment, neighbors, pages, target), target)


def _run_output(run: SavedRun, output: pathlib.Path | None) -> pathlib.Path:
    """Where the page of an experiment's run goes."""
    if output is None:
        return run.files.report
    return output.with_name(f"{output.stem}-{run.folder.parent.name}-{run.folder.name}{output.suffix}")


def _write(page: Page, output: pathlib.Path) -> pathlib.Path:
    with written_aside(output) as aside:
        aside.write_text(render(page), encoding="utf-8")
    return output
