"""`python -m export.search MODEL_DIR IMAGE ...`: the gallery items nearest to an image, in the terminal."""

import argparse
import os
import pathlib
import sys

from keras_dml.utils.command import run


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m export.search", description=__doc__)
    parser.add_argument("model_dir", help="a model directory (its newest version is searched) or one version of it")
    parser.add_argument(
        "images", nargs="+", type=pathlib.Path, metavar="IMAGE", help="JPEG, PNG, GIF, BMP or WebP file"
    )
    parser.add_argument("--k", type=int, help="how many items (default: what the model was built with)")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from export.search_model import load

    try:
        model = load(options.model_dir)
        for path in options.images:
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
    except BrokenPipeError:
        # An OSError that is no error of the command's: see `run`.
        raise
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    run(main)
