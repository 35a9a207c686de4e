"""Encoders that ship with the package: `zoo.load(NAME)` loads one, `python -m zoo.pretrained RUN --name NAME` adds one.

Only weights trained from scratch ship. Those that began as someone else's (ImageNet's, say) carry that licence.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_dml.data import ImagePreprocessing
from keras_dml.image_encoder import ImageEncoder, load_keras_model
from keras_dml.utils.command import Parser, execute, run
from keras_dml.utils.files import read_json, sha256, write_json
from keras_dml.utils.suggestions import unknown_name
from zoo.runs import open_run

if TYPE_CHECKING:
    import keras

WEIGHTS = pathlib.Path(__file__).parent / "weights"
"""The encoders, and index.json that describes them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained(ImageEncoder):
    """An `ImageEncoder` that ships with the package.

    Args:
        name: What `zoo.load` calls it.
        metrics: What the encoder reached on the test classes of its benchmark, by metric.
    """

    name: str = ""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """run.json of the training: recipe, arm, seed, data, code and package versions."""
        return dict(self.trained_on)


def names() -> list[str]:
    """The encoders that ship."""
    return sorted(_index())


def load(name: str) -> Pretrained:
    """Loads an encoder that ships with the package; every call makes a new one, free to be trained on.

    Args:
        name: One of `names()`.

    Raises:
        ValueError: There is no such encoder (the text names the nearest), or its file is not the one that was shipped.
    """
    index = _index()
    if name not in index:
        raise ValueError(unknown_name("shipped encoder", name, index))
    shipped = index[name]
    path = WEIGHTS / shipped["file"]
    found = sha256(path) if path.is_file() else "no such file"
    if found != shipped["sha256"]:
        raise ValueError(
            f"{path} is not the file that was shipped. Expected: sha256 {shipped['sha256']}. Found: {found}. "
            "Install keras-dml again (pip install --force-reinstall --no-deps keras-dml)"
        )
    config = shipped["config"]
    preprocessing = ImagePreprocessing.from_config(config["preprocessing"])
    encoder = load_keras_model(path)
    return Pretrained(encoder, preprocessing, trained_on=config, name=name, metrics=shipped["metrics"])


def ship(run: str | os.PathLike[str], name: str) -> pathlib.Path:
    """Copies a finished run's encoder into the package, in place of the one of that name if there is one.

    Args:
        run: Run folder, or experiment folder for its exported run.
        name: What `load` shall call it.

    Returns:
        The encoder's file in `WEIGHTS`.

    Raises:
        ValueError: The name cannot be one, or the run is unfinished, not trained from scratch or not by committed code,
            or its encoder does not fit its run.json.
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(f"A name has small letters, digits and underscores. Received: {name!r}")
    saved = open_run(pathlib.Path(run))
    files = saved.files
    encoder_file = files.encoder
    if not saved.metrics or not encoder_file.is_file():
        raise ValueError(
            f"{saved.folder} has not finished: it lacks {files.metrics.name} or {encoder_file.name}. Finish it with "
            "zoo.reproduce"
        )
    _check_committed(saved.config, files.config)
    _check_from_scratch(saved.config, saved.folder)
    _check_shapes(load_keras_model(encoder_file), saved.config, encoder_file)
    # A run with held-out classes keeps the encoder of the epoch that they selected, any other that of the last epoch.
    epoch = "last" if "last" in saved.metrics else "selected"
    target = WEIGHTS / f"{name}.keras"
    WEIGHTS.mkdir(exist_ok=True)
    aside = target.with_name(f".{target.name}.partial")
    shutil.copyfile(encoder_file, aside)
    os.replace(aside, target)
    entry = {
        "file": target.name,
        "sha256": sha256(target),
        "bytes": target.stat().st_size,
        "epoch": epoch,
        "metrics": saved.metrics[epoch],
        "config": saved.config,
    }
    write_json(WEIGHTS / "index.json", dict(sorted({**_index(), name: entry}.items())))
    return target


def _index() -> dict[str, dict[str, Any]]:
    path = WEIGHTS / "index.json"
    return read_json(path) if path.is_file() else {}


def _check_committed(config: dict[str, Any], file: pathlib.Path) -> None:
    """Refuses a run of which a part was computed by code that nobody else can have."""
    # A run that was interrupted has a session for every process that worked on it; older runs have none.
    for code in (config.get("code"), *(session.get("code") for session in config.get("sessions", []))):
        if not code or code.get("commit") is None or code.get("modified") is not False:
            raise ValueError(
                "Only encoders trained by committed code may ship, so that others can train them too. Expected in "
                f"{file}: code with a commit and modified=false. Found: {code}. "
                "Commit your changes and train again, from a git checkout"
            )


def _check_from_scratch(config: dict[str, Any], folder: pathlib.Path) -> None:
    recipe = config.get("recipe", {})
    # Options of a backbone can name weights too, such as `keras_weights`.
    options = {f"backbone_options.{key}": value for key, value in recipe.get("backbone_options", {}).items()}
    started = {"weights": recipe.get("weights", "unknown"), **{k: v for k, v in options.items() if "weights" in k}}
    for key, value in started.items():
        if value is not None:
            raise ValueError(
                "Only encoders trained from scratch may ship, as other weights carry a licence of their own. "
                f"Received: {folder}, whose recipe has {key}={value!r}"
            )


def _check_shapes(encoder: "keras.Model", config: dict[str, Any], file: pathlib.Path) -> None:
    expected = ImagePreprocessing.from_config(config["preprocessing"]).input_shape, config["embedding_dim"]
    found = tuple(encoder.input_shape[1:]), encoder.output_shape[-1]
    if found != expected:
        raise ValueError(
            f"{file} does not fit run.json beside it. Expected: images {expected[0]}, embeddings of {expected[1]}. "
            f"Found: images {found[0]}, embeddings of {found[1]}"
        )


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = Parser(
        "pretrained",
        "Adds the encoder of a finished run to those that ship with the package (zoo/weights), in place of the one of "
        "that name\nif there is one. The run must have been trained from scratch, by committed code.",
        usage="python -m zoo.pretrained RUN --name NAME",
    )
    parser.add_argument("run", metavar="RUN", help="run folder, or experiment folder for its exported run")
    parser.add_argument("--name", required=True, help="what zoo.load calls it")
    options = parser.parse_args(arguments)
    return execute(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    file = ship(options.run, options.name)
    print(f"{file} ({file.stat().st_size:,} bytes)")


if __name__ == "__main__":
    run(main)
