"""`keras-dml COMMAND ...`: one command line for the zoo and for export.

Each command is a module with a `main`; `python -m MODULE` is the same. The console script also works where the working
folder has a `zoo` or `export` of its own, which `python -m zoo.reproduce` would import instead.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

from keras_dml.utils.command import WRONG_CALL, run
from keras_dml.utils.suggestions import unknown_name

COMMANDS = {
    "reproduce": ("zoo.reproduce", "train and compare the arms of a recipe, and export the result"),
    "tune": ("zoo.tune", "find each arm's learning rate on held-out training classes"),
    "evaluate": ("zoo.evaluate", "retrieval and clustering metrics of a run, of embeddings or of an encoder"),
    "compare": ("zoo.compare", "paired comparison of arms over seeds"),
    "report": ("zoo.report.__main__", "a page about all arms of an experiment, or about a run"),
    "build": ("export.build", "a run and a gallery become a searchable model"),
    "update": ("export.update", "a new version of a model, with items added and removed"),
    "search": ("export.search", "the gallery items nearest to an image"),
    "serve": ("export.serve.__main__", "serve a model over HTTP and gRPC, with a search page"),
}
"""Module and one line of help by command."""


def usage() -> str:
    """What `keras-dml --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: keras-dml COMMAND ...",
            "",
            "Deep metric learning for Keras 3: from a recipe to a retrieval service.",
            "",
            "commands:",
            *lines,
            "",
            "keras-dml COMMAND --help tells more. `keras-dml --version` prints the version.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; returns its exit status."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    rest = rest[:-1] if rest else []
    if name in ("", "-h", "--help"):
        print(usage(), file=sys.stdout if name else sys.stderr)
        return 0 if name else WRONG_CALL
    if name == "--version":
        print(importlib.metadata.version("keras-dml"))
        return 0
    if name not in COMMANDS:
        print(f"error: {unknown_name('command', name, COMMANDS)}", file=sys.stderr)
        return WRONG_CALL
    return importlib.import_module(COMMANDS[name][0]).main(rest)


def script() -> None:
    """What the console script calls."""
    run(main)


if __name__ == "__main__":
    script()
