"""`keras-dml search MODEL_DIR IMAGE ...`: the gallery items nearest to an image, in the terminal."""

import argparse
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from keras_dml.utils.command import Parser, execute, positive, run

if TYPE_CHECKING:
    from export.search_result import SearchResult


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = Parser("search", __doc__)
    parser.add_argument("model_dir", help="a model directory (its newest version is searched) or one version of it")
    parser.add_argument(
        "images", nargs="*", type=pathlib.Path, metavar="IMAGE", help="JPEG, PNG, GIF, BMP or WebP file"
    )
    parser.add_argument("--item", action="append", default=[], metavar="ID", help="an item of the gallery; repeatable")
    parser.add_argument("--k", type=positive, help="how many items (default: what the model was built with)")
    parser.add_argument(
        "--where", metavar="JSON", help='a filter on ids and columns, such as \'{"label": {"$in": ["cup", "jug"]}}\''
    )
    options = parser.parse_args(arguments)
    if not options.images and not options.item:
        parser.error("name an IMAGE, or an item of the gallery by --item")
    return execute(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    from export.search_model import load
    from export.where import parse_where
    from keras_dml.utils.files import check_regular

    where = None if options.where is None else parse_where(options.where)
    model = load(options.model_dir)
    searches: list[tuple[str, Callable[[], SearchResult]]] = []
    for path in options.images:
        check_regular(path)
        searches.append((str(path), lambda path=path: model.search(path.read_bytes(), options.k, where=where)))
    for name in options.item:
        searches.append((name, lambda name=name: model.search_items(name, options.k, where=where)))
    for title, search in searches:
        result = search()
        kept = len(model) if where is None else len(model.filtered.rows(where))
        print(f"{title}: nearest of {kept} items")
        columns = ["score", "id", *result.metadata]
        rows = [
            [f"{score:.4f}", str(name), *(str(column[0][place]) for column in result.metadata.values())]
            for place, (score, name) in enumerate(zip(result.scores[0], result.ids[0], strict=True))
        ]
        widths = [max(len(row[column]) for row in [columns, *rows]) for column in range(len(columns))]
        for row in [columns, *rows]:
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    run(main)
