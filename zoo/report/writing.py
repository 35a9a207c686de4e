"""Writes the pages."""

import os
import pathlib

from keras_dml.utils.files import written_aside
from keras_dml.utils.progress import SILENT, Progress
from zoo.report.evaluated import evaluate_run
from zoo.report.rendering import Page, render
from zoo.report.run_page import run_page
from zoo.runs import open_run


def write_report(
    folder: pathlib.Path | str,
    data_dir: pathlib.Path | None = None,
    output: pathlib.Path | None = None,
    projection: str = "tsne",
    seed: int = 0,
    progress: Progress = SILENT,
) -> pathlib.Path:
    """Writes the page about a run.

    Args:
        folder: A run folder, or an experiment folder (its exported run).
        data_dir: Where the benchmark's images are. Without them the page has no thumbnails.
        output: The file; report.html in the folder by default.
        projection: "tsne" or "pca", for the map.
        seed: Seed of samples and of the map.
        progress: Is told what is done.

    Returns:
        The file written.

    Raises:
        ValueError: The folder holds neither, or `output` cannot be written.
    """
    run = open_run(folder)
    output = output or run.files.report
    check_output(output)
    return _write(run_page(evaluate_run(run, data_dir, seed), projection), output)


def check_output(output: pathlib.Path) -> None:
    """Looks whether a file can be written, before the work that fills it.

    Raises:
        ValueError: It cannot: a folder of its path is a file, or is not ours to write in.
    """
    if output.is_dir():
        raise ValueError(f"{output} is a folder. Give the name of a file in it")
    folder = output.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"{output} cannot be written: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{output} cannot be written: no permission to write in {folder}")


def _write(page: Page, output: pathlib.Path) -> pathlib.Path:
    with written_aside(output) as aside:
        aside.write_text(render(page), encoding="utf-8")
    return output
