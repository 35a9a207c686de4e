"""Trains and compares the arms of a recipe: `python -m zoo.reproduce digits`."""

import argparse
import dataclasses
import logging
import os
import pathlib
import sys

from keras_dml.data.data_error import unreadable_images_named
from keras_dml.utils.command import run
from zoo import recipes
from zoo.files import RECORDS
from zoo.listing import listing
from zoo.recipe import Recipe, override

DESCRIPTION = """\
Trains every arm of a recipe with every seed, compares them on classes never seen in training, draws the pictures and
exports a searchable index. The same command resumes an interrupted experiment and shows a finished one again."""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    # TensorFlow's own messages would bury the progress: a missing GPU, kernels it would rather have, retracing.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if options.name is None and not options.list:
        parser.error("name a recipe, or see them all with --list")
    try:
        if options.list:
            print(listing(RECORDS, options.name))
            return 0
        recipe = _recipe(options)
        folder = options.output or pathlib.Path("runs") / (
            recipe.name if options.folds is None else f"{recipe.name}-{options.folds}-folds"
        )
        with unreadable_images_named():
            reproduce(
                recipe, folder, options.data_dir, options.subset, options.bad_images, options.folds, options.tensorboard
            )
    except BrokenPipeError:
        # An OSError that is no error of the command's: see `run`.
        raise
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nInterrupted. Finished epochs are kept: the same command goes on after the last of them.", file=sys.stderr
        )
        return 130
    return 0


def reproduce(
    recipe: Recipe,
    folder: pathlib.Path,
    data_dir: pathlib.Path | None = None,
    subset: bool = False,
    bad_images: str = "fail",
    folds: int | None = None,
    tensorboard: bool = False,
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
    """
    print(f"{recipe.name}: {recipe.summary}", flush=True)
    from keras_dml.data import load
    from zoo.experiment import Experiment

    benchmark = load(recipe.benchmark, data_dir, subset, bad_images)
    train, test = benchmark.train, benchmark.test
    print(
        f"Training: {len(train)} images of {train.num_classes} classes. "
        f"Test: {len(test)} images of {test.num_classes} other classes.",
        flush=True,
    )
    seeds = f"mean ± standard deviation over {len(recipe.seeds)} seed{'s' if len(recipe.seeds) > 1 else ''}"
    if folds is not None:
        from zoo.cross_validation import cross_validate

        table = cross_validate(recipe, folder, benchmark, folds, tensorboard)
        print(f"\nUnseen classes, epoch chosen on held-out training classes, {folds} folds; {seeds}:\n\n{table}\n")
        return
    experiment = Experiment(recipe, folder)
    experiment.start(benchmark)
    if experiment.finished(benchmark):
        print(f"{folder} holds this experiment, finished; it is shown, not repeated. Delete the folder to repeat it.")
    experiment.train(benchmark, tensorboard)
    last, protocols = experiment.summarise(benchmark)
    print(f"\nUnseen classes, last epoch; {seeds}:\n\n{last}\n")
    print(f"Ways to choose the epoch, in per cent (paper protocol: the best test epoch):\n\n{protocols}\n")
    print(f"The record, with settings, versions and data: {folder / 'record.json'}")
    query = experiment.export(benchmark)
    print(f"Search the exported index ({recipe.shipped}, seed {recipe.seeds[0]}):")
    print(f"    {_python()} -m export.search {experiment.model_dir} {query}")
    print("Look at the pictures:")
    for picture in sorted(set(folder.glob("*.png")) - {query}):
        print(f"    {_python()} -m webbrowser {picture.absolute().as_uri()}")
    data = "" if data_dir is None else f" --data-dir {data_dir}"
    print("Make a page with all there is to see of a run, and compare the arms:")
    print(f"    {_python()} -m zoo.report {folder}{data}")
    print(f"    {_python()} -m zoo.compare {folder}")


def _python() -> str:
    """The interpreter as one would type it from here."""
    executable = pathlib.Path(sys.executable)
    here = pathlib.Path.cwd()
    return str(executable.relative_to(here)) if executable.is_relative_to(here) else str(executable)


def _recipe(options: argparse.Namespace) -> Recipe:
    recipe = recipes.get(options.name)
    if options.weights is not None:
        recipe = dataclasses.replace(recipe, weights=options.weights)
    if options.seed:
        recipe = dataclasses.replace(recipe, seeds=tuple(options.seed))
    return override(recipe, [*([] if options.epochs is None else [f"epochs={options.epochs}"]), *options.set])


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m zoo.reproduce", description=DESCRIPTION)
    parser.add_argument("name", nargs="?", help="a recipe, or a benchmark for its headline recipe; see --list")
    parser.add_argument(
        "--list",
        action="store_true",
        help="show what can be reproduced, with published and measured figures, and stop; with a name, all its figures",
    )
    parser.add_argument("--data-dir", type=pathlib.Path, help="folder with the benchmark's images, where it needs one")
    parser.add_argument("--subset", action="store_true", help="accept data that are not the published protocol's")
    parser.add_argument(
        "--bad-images", choices=("fail", "skip"), default="fail", help="what an unreadable image does (default: fail)"
    )
    parser.add_argument(
        "--folds",
        type=int,
        help="class-disjoint cross-validation: hold out each part of the training classes in turn to choose the epoch",
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write scalars and the embedding for TensorBoard into every run"
    )
    parser.add_argument("--weights", help='what the backbone starts from: "imagenet" or a weights file')
    parser.add_argument(
        "--output", type=pathlib.Path, help="experiment folder (default: runs/NAME, with --folds runs/NAME-N-folds)"
    )
    parser.add_argument("--epochs", type=_positive, help="epochs, instead of the recipe's")
    parser.add_argument("--seed", type=int, action="append", help="a seed, instead of the recipe's; may be repeated")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a field of the recipe (learning_rate=3e-4, das.top_k=8) or of one of its arms "
        "(arms.das.das.top_k=8); may be repeated",
    )
    return parser


if __name__ == "__main__":
    run(main)
