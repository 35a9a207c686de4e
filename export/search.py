"""`keras-dml search MODEL_DIR IMAGE ...`: the gallery items nearest to an image, in the terminal."""

import argparse
import pathlib

from keras_dml.utils.command import Parser, execute, positive, run


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = Parser("search", __doc__)
    parser.add_argument("model_dir", help="a model directory (its newest version is searched) or one version of it")
    parser.add_argument(
        "images", nargs="+", type=pathlib.Path, metavar="IMAGE", help="JPEG, PNG, GIF, BMP or WebP file"
    )
    parser.add_argument("--k", type=positive, help="how many items (default: what the model was built with)")
    options = parser.parse_args(arguments)
    return execute(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    from export.search_model import load
    from keras_dml.utils.files import check_regular

    model = load(options.model_dir)
    for path in options.images:
        check_regular(path)
        result = model.search(path.read_bytes(), options.k)
        print(f"{path}: nearest of {len(model)} items")
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
