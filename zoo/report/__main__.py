"""The command line of `zoo.report`."""

import argparse
import pathlib
from collections.abc import Sequence

from keras_dml.utils.command import Parser, execute, run
from zoo.report.page import write_report

DESCRIPTION = """\
Writes RUN/report.html: headline metrics, learning curves, best and worst queries, a map of the embedding, classes and
what they are taken for. One file, nothing to load from elsewhere. Images come from the run's benchmark where its data
is found; without them the page stands all the same."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = Parser("report", DESCRIPTION)
    parser.add_argument("run", type=pathlib.Path, help="run folder, or experiment folder (its exported run)")
    parser.add_argument("--data-dir", type=pathlib.Path, help="folder with the benchmark's images")
    parser.add_argument("--output", type=pathlib.Path, help="default: RUN/report.html")
    parser.add_argument("--map", choices=("tsne", "pca"), default="tsne", help="how the map is drawn (default: tsne)")
    parser.add_argument("--seed", type=int, default=0, help="seed of samples and of the map")
    arguments = parser.parse_args(argv)
    return execute(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    output = write_report(
        arguments.run, arguments.data_dir, arguments.output, projection=arguments.map, seed=arguments.seed
    )
    print(f"Written to {output} ({output.stat().st_size / 2**20:.1f} MiB). Open it in a browser.")


if __name__ == "__main__":
    run(main)
