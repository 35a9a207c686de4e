"""Reading a run folder: which encoder, which preprocessing."""

import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_dml.data import ImagePreprocessing


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

    @property
    def similarity_path(self) -> pathlib.Path | None:
        """The PDDM unit's file, for runs that have one."""
        path = self.folder / "similarity.keras"
        return path if path.is_file() else None

    def preprocessing(self) -> "ImagePreprocessing":
        """How the run's test images became encoder inputs."""
        from keras_dml.data import ImagePreprocessing

        return ImagePreprocessing.from_config(self.content["preprocessing"])

    def encoder(self) -> Any:
        """The trained encoder, a keras.Model."""
        return load_keras(self.encoder_path)

    def similarity(self) -> Any:
        """The trained PDDM unit, or None."""
        return None if self.similarity_path is None else load_similarity(self.similarity_path)

    def source(self) -> dict[str, Any]:
        """What a manifest says about the run."""
        wanted = ("name", "arm", "seed", "benchmark", "versions")
        return {"run": str(self.folder), **{key: self.content[key] for key in wanted if key in self.content}}


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


def load_keras(path: pathlib.Path) -> Any:
    """Loads a .keras file with the layers of keras_dml known."""
    import keras

    import keras_dml.layers  # noqa: F401  (registers the layers that the file names)

    return keras.models.load_model(path, compile=False)


def load_similarity(path: pathlib.Path) -> Any:
    """Loads a PDDM unit, saved as a layer or as a model of two inputs around it."""
    loaded = load_keras(path)
    for layer in [loaded, *getattr(loaded, "layers", [])]:
        if hasattr(layer, "rerank"):
            return layer
    raise ValueError(f"{path} holds no PDDM unit. Received: {type(loaded).__name__}")
