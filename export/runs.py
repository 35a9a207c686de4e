"""Reading a run folder: which encoder, which preprocessing."""

import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING, Any

from export.encoder_files import open_pair_scorer

if TYPE_CHECKING:
    from keras_dml import ImageEncoder


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run.

    Args:
        folder: Where run.json and encoder.keras lie.
        content: The content of run.json.
    """

    folder: pathlib.Path
    content: dict[str, Any]

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.content.get("name") or self.folder.absolute().name)

    @property
    def encoder_path(self) -> pathlib.Path:
        """The encoder's file."""
        return self.folder / "encoder.keras"

    def image_encoder(self) -> "ImageEncoder":
        """The trained encoder with the preprocessing of the test images, and its pair scorer where there is one."""
        from keras_dml import ImageEncoder
        from keras_dml.data import ImagePreprocessing
        from keras_dml.image_encoder import CONTENT_FILE, load_keras_model

        if (self.folder / CONTENT_FILE).is_file():
            return ImageEncoder.load(self.folder)
        preprocessing = ImagePreprocessing.from_config(self.content["preprocessing"])
        encoder = load_keras_model(self.encoder_path)
        return ImageEncoder(encoder, preprocessing, open_pair_scorer(self.folder), self._known())

    def source(self) -> dict[str, Any]:
        """What a manifest says about the run."""
        return {"run": str(self.folder), **self._known()}

    def _known(self) -> dict[str, Any]:
        wanted = ("name", "arm", "seed", "benchmark", "versions")
        return {key: self.content[key] for key in wanted if key in self.content}


def open_run(path: str | pathlib.Path) -> Run:
    """Opens a run folder, or the shipped run of an experiment folder.

    Raises:
        FileNotFoundError: `path` is neither.
        ValueError: run.json has another format or lacks something.
    """
    folder = pathlib.Path(path)
    if (folder / "experiment.json").is_file() and not (folder / "run.json").is_file():
        experiment = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
        folder = folder / str(experiment["shipped"])
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(
            f"`RUN` must be a folder with run.json or experiment.json, as zoo.reproduce writes it. Received: {path}"
        )
    content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if content.get("format") != 1:
        raise ValueError(f"{folder / 'run.json'}: expected format 1. Received: {content.get('format')!r}")
    if not (folder / "encoder.keras").is_file():
        raise FileNotFoundError(f"{folder} holds no encoder.keras: the run has not finished. Train it again")
    if "preprocessing" not in content:
        raise ValueError(f"{folder / 'run.json'}: `preprocessing` is missing")
    return Run(folder, content)
