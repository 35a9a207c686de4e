"""Reads what a training run, or someone else, has saved."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from keras_dml.utils.files import read_json

RUN_FORMAT = 1
SELECTION_RUN = "selection"
"""Folder, beside those of an arm's seeds, of the run that chooses its epoch on held-out training classes."""


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

    def embeddings(self) -> Embeddings:
        """The test embeddings."""
        return read_embeddings(self.folder / "test_embeddings.npz")

    def gallery(self) -> Embeddings | None:
        """The gallery embeddings, where the run has saved some."""
        path = self.folder / "gallery_embeddings.npz"
        return read_embeddings(path) if path.exists() else None


def run_folders(path: pathlib.Path) -> list[pathlib.Path]:
    """All run folders that `path` stands for: itself, or those of an experiment folder.

    Raises:
        ValueError: If it is neither.
    """
    path = pathlib.Path(path)
    if (path / "run.json").is_file():
        return [path]
    if (path / "experiment.json").is_file():
        return [path / name for name in read_json(path / "experiment.json")["runs"]]
    if path.is_dir():
        below = sorted(file.parent for file in path.glob("*/run.json") if file.parent.name != SELECTION_RUN)
        if below:
            return below
        raise ValueError(f"{path} holds neither run.json nor experiment.json. Give a folder that zoo.reproduce wrote.")
    raise ValueError(f"There is no folder {path}")


def open_run(folder: pathlib.Path | str) -> SavedRun:
    """Opens a run folder, or the shipped run of an experiment folder."""
    path = pathlib.Path(folder)
    if not (path / "run.json").is_file() and (path / "experiment.json").is_file():
        path = path / read_json(path / "experiment.json")["shipped"]
    if not (path / "run.json").is_file():
        run_folders(path)
        raise ValueError(f"{path} holds several runs. Give one of them.")
    config = read_json(path / "run.json")
    if config.get("format") != RUN_FORMAT:
        raise ValueError(
            f"{path / 'run.json'} has format {config.get('format')!r}; this version reads {RUN_FORMAT}. "
            "Read it with the version of keras_dml that wrote it."
        )

    def optional(name: str) -> dict[str, Any]:
        return read_json(path / name) if (path / name).is_file() else {}

    return SavedRun(path, config, optional("history.json"), optional("metrics.json"))


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
