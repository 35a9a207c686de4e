"""The command line of `zoo.report`."""

import argparse
import pathlib
from collections.abc import Sequence

from keras_dml.utils.command import Parser, execute, run, wrong_call
from keras_dml.utils.progress import TerminalProgress
from zoo.report.writing import check_output, write_report

DESCRIPTION = """\
Writes FOLDER/report.html.

Of an experiment, all arms and seeds on one page: learning curves with their spread, a table beside untrained networks,
paired differences, and what each arm retrieves for the same queries. It links to a page of each arm's first seed, which
is written as well.

Of a run: headline metrics, learning curves, best and worst queries, a map of the embedding, classes and what they are
taken for.

Each page is one file with nothing to load from elsewhere. Images come from the run's benchmark where its data is found;
without them the page stands all the same."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = Parser("report", DESCRIPTION)
    parser.add_argument("folder", type=pathlib.Path, help="experiment folder or run folder")
    parser.add_argument("--data-dir", type=pathlib.Path, metavar="DIR", help="folder with the benchmark's images")
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", help="default: FOLDER/report.html")
    parser.add_argument("--map", choices=("tsne", "pca"), default="tsne", help="how the map is drawn (default: tsne)")
    parser.add_argument("--seed", type=int, default=0, help="seed of samples and of the map (default: 0)")
    arguments = parser.parse_args(argv)
    return execute(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        with wrong_call():
            check_output(arguments.output)
    output = write_report(
        arguments.folder,
        arguments.data_dir,
        arguments.output,
        projection=arguments.map,
        seed=arguments.seed,
        progress=TerminalProgress(),
    )
    print(f"Written to {output} ({output.stat().st_size / 2**20:.1f} MiB). Open it in a browser.")


if __name__ == "__main__":
    run(main)
