"""Reads what a training run, or someone else, has saved."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dml.utils.files import read_json
from zoo.recipe import metric_of
from zoo.runs.layout import (
    CONFIG_FILE,
    EXPERIMENT_FILE,
    RUN_FORMAT,
    SELECTION_RUN,
    ExperimentFolder,
    RunFolder,
)

if TYPE_CHECKING:
    from keras_dml import ImageEncoder


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings with labels and, where known, ids and class names.

    Args:
        vectors: `(n, d)` float32.
        labels: `(n,)`.
        ids: `(n,)` strings, or None.
        class_names: `(classes,)` strings, or None. Label k is called `class_names[k]`.
    """

    vectors: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...] | None = None
    class_names: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A run folder, as `zoo` writes it.

    Args:
        folder: Where it is.
        config: run.json.
        history: history.json; empty if missing.
        metrics: metrics.json; empty if missing.
    """

    folder: pathlib.Path
    config: dict[str, Any]
    history: dict[str, list[float]]
    metrics: dict[str, Any]

    @property
    def files(self) -> RunFolder:
        """The paths in the folder."""
        return RunFolder(self.folder)

    @property
    def name(self) -> str:
        """The recipe's name."""
        return str(self.config.get("name") or self.folder.absolute().name)

    @property
    def title(self) -> str:
        """Name, arm and seed in words."""
        parts = [str(self.config.get("name", self.folder.name))]
        if self.config.get("arm") is not None:
            parts.append(str(self.config["arm"]))
        if self.config.get("seed") is not None:
            parts.append(f"seed {self.config['seed']}")
        return ", ".join(parts)

    @property
    def ks(self) -> tuple[int, ...]:
        """Ranks of Recall@k that the recipe asks for."""
        return tuple(self.config.get("recipe", {}).get("ks", (1, 2, 4, 8)))

    @property
    def metric(self) -> str:
        """How its embeddings were compared, "cosine" or "euclidean"."""
        return metric_of(self.config.get("recipe", {}))

    def embeddings(self) -> Embeddings:
        """The test embeddings."""
        return read_embeddings(self.files.test_embeddings)

    def gallery(self) -> Embeddings | None:
        """The gallery embeddings, where the run has saved some."""
        return read_embeddings(self.files.gallery_embeddings) if self.files.gallery_embeddings.exists() else None

    def image_encoder(self) -> "ImageEncoder":
        """The trained encoder with its preprocessing and, where one was trained, its pair scorer.

        Raises:
            FileNotFoundError: The run has not finished.
            ValueError: A file is damaged or not the one that was saved; the text names it.
        """
        from keras_dml import ImageEncoder
        from keras_dml.data import ImagePreprocessing
        from keras_dml.image_encoder import load_keras_model, load_pair_scorer

        files = self.files
        if files.image_encoder.is_file():
            return ImageEncoder.load(self.folder)
        if not files.encoder.is_file():
            raise FileNotFoundError(
                f"{self.folder} holds no {files.encoder.name}: the run has not finished. Finish it with zoo.reproduce"
            )
        if "preprocessing" not in self.config:
            raise ValueError(f"{files.config}: `preprocessing` is missing")
        return ImageEncoder(
            load_keras_model(files.encoder),
            ImagePreprocessing.from_config(self.config["preprocessing"]),
            load_pair_scorer(files.pair_scorer) if files.pair_scorer.is_file() else None,
            self.config,
            self.metric,
        )


def run_folders(path: pathlib.Path) -> list[pathlib.Path]:
    """All run folders that `path` stands for: itself, or those of an experiment folder.

    Raises:
        ValueError: If it is neither.
    """
    path = pathlib.Path(path)
    if RunFolder(path).config.is_file():
        return [path]
    if ExperimentFolder(path).config.is_file():
        return [path / name for name in read_experiment(path)["runs"]]
    if path.is_dir():
        below = sorted(file.parent for file in path.glob(f"*/{CONFIG_FILE}") if file.parent.name != SELECTION_RUN)
        if below:
            return below
        raise ValueError(
            f"{path} holds neither {CONFIG_FILE} nor {EXPERIMENT_FILE}. Give a folder that zoo.reproduce wrote."
        )
    raise ValueError(f"There is no folder {path}")


def open_run(folder: pathlib.Path | str) -> SavedRun:
    """Opens a run folder, or the exported run of an experiment folder.

    Raises:
        ValueError: It is neither, or its run.json is damaged or of another format.
    """
    path = pathlib.Path(folder)
    if not RunFolder(path).config.is_file() and ExperimentFolder(path).config.is_file():
        path = path / read_experiment(path)["exported"]
    files = RunFolder(path)
    if not files.config.is_file():
        run_folders(path)
        raise ValueError(f"{path} holds several runs. Give one of them.")
    config = read_json(files.config)
    if not isinstance(config, dict) or config.get("format") != RUN_FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise ValueError(
            f"{files.config} has format {found!r}; this version reads {RUN_FORMAT}. "
            "Read it with the version of keras_dml that wrote it."
        )

    def optional(file: pathlib.Path) -> dict[str, Any]:
        return read_json(file) if file.is_file() else {}

    return SavedRun(path, config, optional(files.history), optional(files.metrics))


def read_experiment(path: pathlib.Path) -> dict[str, Any]:
    """experiment.json of an experiment folder, with today's names of its keys.

    Raises:
        ValueError: It is damaged; the text names it.
    """
    file = ExperimentFolder(path).config
    content = read_json(file)
    # Version 0.1 called the exported run the shipped one.
    if isinstance(content, dict) and "shipped" in content:
        content.setdefault("exported", content.pop("shipped"))
    missing = [key for key in ("runs", "exported") if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f"{file} is damaged. Expected: the keys runs and exported. Missing: {', '.join(missing)}")
    return content


def read_embeddings(file: pathlib.Path | str) -> Embeddings:
    """Reads an .npz with `embeddings` and `labels`, and `ids` and `class_names` if there are any."""
    path = pathlib.Path(file)
    if not path.is_file():
        raise ValueError(f"There is no file {path}")
    with np.load(path, allow_pickle=False) as saved:
        missing = [name for name in ("embeddings", "labels") if name not in saved]
        if missing:
            raise ValueError(
                f"{path} must hold arrays named embeddings (n, d) and labels (n,). Missing: {', '.join(missing)}; "
                f"it holds: {', '.join(saved.files) or 'nothing'}"
            )

        def names(key: str) -> tuple[str, ...] | None:
            return tuple(map(str, saved[key])) if key in saved else None

        return Embeddings(saved["embeddings"], saved["labels"], names("ids"), names("class_names"))
