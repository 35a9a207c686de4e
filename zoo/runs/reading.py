"""Reads what a training run, or someone else, has saved."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dml.typing import METRICS
from keras_dml.utils.files import read_json_object
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

RUN_KEYS = {
    "name": str,
    "arm": str,
    "seed": int,
    "benchmark": str,
    "recipe": dict,
    "data": dict,
    "preprocessing": dict,
}
"""What of run.json is read, where it is there."""


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
        return tuple((self.config.get("recipe") or {}).get("ks", (1, 2, 4, 8)))

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
        from keras_dml.image_encoder import load_keras_model, load_pair_scorer, preprocessing_from

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
            preprocessing_from(files.config, self.config["preprocessing"]),
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
    config = read_json_object(files.config, RUN_KEYS)
    if config.get("format") != RUN_FORMAT:
        raise ValueError(
            f"{files.config} has format {config.get('format')!r}; this version reads {RUN_FORMAT}. "
            "Read it with the version of keras_dml that wrote it."
        )
    check_settings(files.config, config.get("recipe") or {})
    ks = (config.get("recipe") or {}).get("ks", [1])
    if not isinstance(ks, list) or not ks or any(type(k) is not int or k < 1 for k in ks):
        raise ValueError(f"{files.config} is damaged. Expected: `recipe.ks` to be positive whole numbers. Found: {ks!r}")
    history = read_json_object(files.history) if files.history.is_file() else {}
    wrong = next((name for name, values in history.items() if not _numbers(values)), None)
    if wrong is not None:
        raise ValueError(f"{files.history} is damaged. Expected: `{wrong}` to be a list of numbers")
    metrics = read_json_object(files.metrics) if files.metrics.is_file() else {}
    for name in ("untrained", "untrained_held_out", "last", "selected"):
        if metrics.get(name) is not None:
            check_values(files.metrics, name, metrics[name])
    return SavedRun(path, config, history, metrics)


def check_settings(path: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Raises a ValueError that names the file if its `recipe` cannot be what `Recipe.to_dict` gave, now or before."""
    arms = settings.get("arms")
    if arms is not None and not (isinstance(arms, dict) and all(isinstance(one, dict) for one in arms.values())):
        raise ValueError(f"{path} is damaged. Expected: `recipe.arms` to be settings by arm. Found: {arms!r}")
    metric = settings.get("metric")
    if metric is not None and metric not in METRICS:
        raise ValueError(
            f"{path} is damaged. Expected: `recipe.metric` to be {' or '.join(METRICS)}. Found: {metric!r}"
        )


def check_values(path: pathlib.Path, key: str, values: Any, lists: bool = False) -> None:
    """Raises a ValueError that names the file unless `values` are numbers by name, or with `lists` lists of them."""
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged. Expected: `{key}` to hold numbers by name. Found: {values!r}")
    wrong = next((name for name, one in values.items() if not _numbers(one if lists and isinstance(one, list) else [one])), None)
    if wrong is not None:
        raise ValueError(f"{path} is damaged. Expected: `{key}.{wrong}` to be numbers. Found: {values[wrong]!r}")


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(value is None or isinstance(value, int | float) for value in values)


def read_experiment(path: pathlib.Path) -> dict[str, Any]:
    """experiment.json of an experiment folder, with today's names of its keys.

    Raises:
        ValueError: It is damaged; the text names it.
    """
    file = ExperimentFolder(path).config
    content = read_json_object(file, {"runs": list, "exported": str, "shipped": str})
    # Version 0.1 called the exported run the shipped one.
    if "shipped" in content:
        content.setdefault("exported", content.pop("shipped"))
    missing = [key for key in ("runs", "exported") if content.get(key) is None]
    if missing:
        raise ValueError(f"{file} is damaged. Expected: the keys runs and exported. Missing: {', '.join(missing)}")
    wrong = next((name for name in content["runs"] if not isinstance(name, str)), None)
    if wrong is not None:
        raise ValueError(f"{file} is damaged. Expected: `runs` to name folders. Found: {wrong!r}")
    return content


def read_embeddings(file: pathlib.Path | str) -> Embeddings:
    """Reads an .npz with `embeddings` and `labels`, and `ids` and `class_names` if there are any.

    Raises:
        ValueError: There is no such file, it is damaged, or its arrays do not fit each other; the text names it.
        OSError: It cannot be read.
    """
    from keras_dml.data import reading

    path = pathlib.Path(file)
    if not path.exists():
        raise ValueError(f"There is no file {path}")
    saved = reading.read_npz(
        path,
        {
            "embeddings": reading.ArraySpec("fiu", (None, None), "(n, d) numbers"),
            "labels": reading.ArraySpec("iubU", (None,), "(n,) whole numbers or text"),
            "ids": reading.ArraySpec("iuU", (None,), "(n,) text", optional=True),
            "class_names": reading.ArraySpec("U", (None,), "(classes,) text", optional=True),
        },
        "arrays named embeddings (n, d) and labels (n,), and maybe ids (n,) and class_names (classes,)",
    )

    def names(key: str) -> tuple[str, ...] | None:
        return tuple(reading.texts(path, key, saved[key])) if key in saved else None

    vectors, labels, ids, class_names = saved["embeddings"], saved["labels"], names("ids"), names("class_names")
    counts = {"embeddings": len(vectors), "labels": len(labels), **({} if ids is None else {"ids": len(ids)})}
    if len(set(counts.values())) > 1:
        raise ValueError(f"{path}: its arrays must be equally long. Received: {counts}. Write the file again")
    if not vectors.size:
        raise ValueError(f"{path} holds no embeddings: its array has the shape {vectors.shape}")
    if ids is not None and len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(
            f"{path}: ids must be unique, as an item is kept out of its own ranking by its id. Received twice: "
            f"{twice!r}. Give each item an id of its own, or leave ids out"
        )
    if class_names is not None and (labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < len(class_names)):
        raise ValueError(
            f"{path}: with class_names, labels must number them, from 0 to {len(class_names) - 1}. Write the file again"
        )
    return Embeddings(vectors, labels, ids, class_names)
