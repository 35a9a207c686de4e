"""Trains and compares the arms of a recipe: `python -m zoo.reproduce digits`."""

import argparse
import dataclasses
import importlib.util
import pathlib
from typing import TYPE_CHECKING

from keras_dml.utils.command import Parser, add_data_arguments, execute, positive, program, run, wrong_call
from zoo import recipes
from zoo.controls import with_controls
from zoo.files import RECORDS
from zoo.listing import listing
from zoo.overrides import add_override_arguments, overridden
from zoo.recipe import Recipe
from zoo.show import resolved

if TYPE_CHECKING:
    from keras_dml.data import Benchmark
    from zoo.experiment import Experiment

DESCRIPTION = """\
Trains every arm of a recipe with every seed, compares them on classes never seen in training, draws the pictures and
exports a searchable index. The same command resumes an interrupted experiment and shows a finished one again."""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    if options.name is None and not options.list:
        options.name = recipes.DEFAULT
    message = "Interrupted. Finished epochs are kept: the same command goes on after the last of them."
    return execute(lambda: _run(options), message)


def _run(options: argparse.Namespace) -> None:
    with wrong_call():
        if options.list:
            print(listing(RECORDS, options.name))
            return
        recipe = _recipe(options)
        if options.show:
            print(resolved(recipes.get(options.name), recipe))
            return
    folder = options.output or pathlib.Path("runs") / (
        recipe.name if options.folds is None else f"{recipe.name}-{options.folds}-folds"
    )
    data = (options.data_dir, options.subset, options.bad_images)
    reproduce(recipe, folder, *data, options.folds, options.tensorboard, options.devices)


def reproduce(
    recipe: Recipe,
    folder: pathlib.Path,
    data_dir: pathlib.Path | None = None,
    subset: bool = False,
    bad_images: str = "fail",
    folds: int | None = None,
    tensorboard: bool = False,
    devices: int = 1,
) -> None:
    """Runs a recipe into `folder`; goes on with, or shows again, what is there.

    Args:
        recipe: What to run.
        folder: The experiment folder.
        data_dir: Where the images are, for benchmarks that need it.
        subset: Whether numbers of images and classes may differ from the published protocol's.
        bad_images: "fail" or "skip"; see `keras_dml.data.load`.
        folds: Cross-validates over so many parts of the training classes, instead of training on all of them.
        tensorboard: Whether every run writes logs for TensorBoard.
        devices: Devices of this host to train on; the recipe's batch is the global batch.
    """
    from keras_dml.data import load
    from keras_dml.utils.requirements import check_trainable
    from zoo.building import validate
    from zoo.choosing import chosen, fitted
    from zoo.devices import Devices, check_batches
    from zoo.experiment import Experiment
    from zoo.runs.lock import locked
    from zoo.runs.provenance import use_threads

    with wrong_call():
        check_trainable()
    print(f"{recipe.name}: {recipe.summary}", flush=True)
    # Threads and devices before all else: they are fixed with the first operation.
    use_threads(Experiment(recipe, folder).threads())
    # Before the folder is made.
    with wrong_call():
        experiment = Experiment(recipe, folder, Devices(devices))
        check_batches(recipe, devices)
        validate(recipe)
    with locked(experiment.files.lock):
        benchmark = load(recipe.benchmark, data_dir, subset, bad_images)
        if recipe.known_share:
            benchmark = benchmark.with_known(recipe.known_share)
        train, test = benchmark.train, benchmark.test
        print(
            f"Training: {len(train)} images of {train.num_classes} classes. "
            f"Test: {len(test)} images of {test.num_classes} other classes.",
            flush=True,
        )
        if folds is not None:
            from zoo.cross_validation import cross_validate

            table = cross_validate(recipe, folder, benchmark, folds, tensorboard, experiment.devices)
            print(f"\nUnseen classes, epoch chosen on held-out training classes, {folds} folds; {_seeds(recipe)}:\n")
            print(f"{table}\n")
            return
        if recipe.choose:
            print("Learning rates, and the arm to export, are chosen on training classes held out.", flush=True)
            recipe = chosen(fitted(recipe, benchmark), benchmark, folder)
            experiment = Experiment(recipe, folder, experiment.devices)
        experiment.start(benchmark)
        if experiment.finished(benchmark):
            print(f"{folder} holds this experiment, finished; it is shown, not repeated. Delete it to repeat it.")
        experiment.train(experiment.all_runs(benchmark), benchmark, tensorboard)
        _show(experiment, benchmark, data_dir)


def _show(experiment: "Experiment", benchmark: "Benchmark", data_dir: pathlib.Path | None) -> None:
    """Prints the tables, and what can be done next."""
    recipe, folder = experiment.recipe, experiment.folder
    last, protocols = experiment.summarize(benchmark)
    print(f"\nUnseen classes, last epoch; {_seeds(recipe)}:\n\n{last}\n")
    print(f"Ways to choose the epoch, in per cent (paper protocol: the best test epoch):\n\n{protocols}\n")
    if recipe.choose:
        from zoo.verdict import verdict

        print(f"{verdict(experiment, benchmark)}\n")
    print(f"The record, with settings, versions and data: {experiment.files.record}")
    if importlib.util.find_spec("tensorflow") is None:
        print('To export a searchable index, install TensorFlow: pip install "keras-dml[tensorflow]"')
    else:
        _show_export(experiment, benchmark)
    print("Look at the pictures:")
    for picture in experiment.files.pictures:
        print(f"    {picture}")
    data = "" if data_dir is None else f" --data-dir {data_dir}"
    print("Make a page of all arms and seeds, and compare the arms:")
    print(f"    {program()} report {folder}{data}")
    print(f"    {program()} compare {folder}")


def _show_export(experiment: "Experiment", benchmark: "Benchmark") -> None:
    recipe = experiment.recipe
    query = experiment.export(benchmark)
    print(f"Search the exported index ({recipe.exported}, seed {recipe.seeds[0]}):")
    print(f"    {program()} search {experiment.model_dir} {query}")


def _seeds(recipe: Recipe) -> str:
    return f"mean ± standard deviation over {len(recipe.seeds)} seed{'s' if len(recipe.seeds) > 1 else ''}"


def _recipe(options: argparse.Namespace) -> Recipe:
    recipe = recipes.get(options.name)
    if options.seed:
        recipe = dataclasses.replace(recipe, seeds=tuple(options.seed))
    if options.epochs is not None:
        options.set.insert(0, f"epochs={options.epochs}")
    recipe = overridden(recipe, options)
    return with_controls(recipe) if options.controls else recipe


def _parser() -> argparse.ArgumentParser:
    parser = Parser("reproduce", DESCRIPTION)
    parser.add_argument(
        "name",
        nargs="?",
        help=f"a recipe, or a benchmark for its headline recipe, see --list (default: {recipes.DEFAULT})",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="show what can be reproduced, with published and measured figures, and stop; with a name, all its figures",
    )
    parser.add_argument(
        "--show",
        action="store_true",
        help="print every setting of every arm, defaults included, with the file that sets it, and stop",
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--folds",
        type=int,
        help="class-disjoint cross-validation: hold out each part of the training classes in turn to choose the epoch",
    )
    parser.add_argument(
        "--controls",
        action="store_true",
        help="beside every arm with DAS, train plain copies, and the weight that copies have in the loss's sums",
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write scalars and the embedding for TensorBoard into every run"
    )
    parser.add_argument(
        "--devices", type=positive, default=1, metavar="N", help="train on N devices of this host (default: 1)"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, help="experiment folder (default: runs/NAME, with --folds runs/NAME-N-folds)"
    )
    parser.add_argument("--epochs", type=positive, help="epochs, instead of the recipe's")
    parser.add_argument("--seed", type=int, action="append", help="a seed, instead of the recipe's; may be repeated")
    add_override_arguments(parser)
    return parser


if __name__ == "__main__":
    run(main)
