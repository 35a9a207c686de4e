"""The runs of an experiment, as its folder has them."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from keras_dml.utils.files import read_json_object
from zoo.compare import Group
from zoo.runs import ExperimentFolder, RunFolder, SavedRun, open_run, run_folders
from zoo.runs.reading import check_values, read_experiment

UNTRAINED = "untrained"


@dataclasses.dataclass(frozen=True, eq=False)
class SavedExperiment:
    """The finished runs of an experiment.

    Args:
        folder: Where it is.
        config: experiment.json.
        arms: The finished runs of each arm, in the order of the experiment; at least one of each.
        missing: Runs that have not finished, as folders in the experiment's.
        rivals: What the arms are compared with, metric by metric, one value for each seed or one in all.
    """

    folder: pathlib.Path
    config: Mapping[str, Any]
    arms: Mapping[str, Sequence[SavedRun]]
    missing: Sequence[str]
    rivals: Mapping[str, Mapping[str, Sequence[float]]]

    @property
    def name(self) -> str:
        """The recipe's name."""
        return str(self.config.get("name") or self.folder.absolute().name)

    @property
    def first_runs(self) -> dict[str, SavedRun]:
        """Of each arm, the first finished run."""
        return {arm: runs[0] for arm, runs in self.arms.items()}

    def groups(self) -> list[Group]:
        """The arms as `zoo.compare` takes them: test metrics after the last epoch, by seed."""
        return [
            Group(arm, {seed_of(run): _finite(run.metrics["last"]) for run in runs}, runs[0].metric)
            for arm, runs in self.arms.items()
        ]

    def untrained(self, metric: str) -> float:
        """Mean of the untrained networks; NaN where it was not measured."""
        values = self.rivals.get(UNTRAINED, {}).get(metric, ())
        return sum(values) / len(values) if values else math.nan


def seed_of(run: SavedRun) -> int:
    """The seed a run was trained with."""
    return int(run.config.get("seed", 0))


def open_experiment(folder: pathlib.Path) -> SavedExperiment:
    """Reads what is finished of an experiment.

    Raises:
        ValueError: No run has finished, or a file is damaged.
    """
    arms: dict[str, list[SavedRun]] = {}
    missing: list[str] = []
    for path in run_folders(folder):
        if not RunFolder(path).finished:
            missing.append(str(path.relative_to(folder)))
            continue
        run = open_run(path)
        arms.setdefault(str(run.config.get("arm", path.parent.name)), []).append(run)
    if not arms:
        raise ValueError(f"{folder} holds no finished run, so there is nothing to show. Finish one with zoo.reproduce")
    return SavedExperiment(folder, read_experiment(folder), arms, missing, _rivals(folder, arms))


def _rivals(folder: pathlib.Path, arms: Mapping[str, Sequence[SavedRun]]) -> dict[str, dict[str, list[float]]]:
    """What the record measures beside the arms, such as raw pixels or a bare backbone, and the untrained networks.

    Everything among the metrics that is no arm, and `rivals` of the record, if it has any: name -> metric -> one value,
    or one for each seed.
    """
    files = ExperimentFolder(folder)
    found: dict[str, Any] = {}
    if files.record.is_file():
        found |= _tables(files.record, "rivals")
    if files.metrics.is_file():
        found |= {name: values for name, values in _tables(files.metrics, "arms").items() if name not in arms}
    if UNTRAINED not in found:
        first = next(iter(arms.values()))
        measured = [_finite(run.metrics.get("untrained", {})) for run in first]
        found[UNTRAINED] = {name: [one[name] for one in measured] for name in measured[0] if all(map(len, measured))}
    rivals = {
        name: {
            metric: [float(one) for one in (values if isinstance(values, list) else [values]) if one is not None]
            for metric, values in metrics.items()
        }
        for name, metrics in found.items()
    }
    return {name: metrics for name, metrics in rivals.items() if any(metrics.values())}


def _tables(path: pathlib.Path, key: str) -> dict[str, Any]:
    """What a file holds under `key`: metrics by name."""
    tables: dict[str, Any] = read_json_object(path, {key: dict}).get(key) or {}
    for name, values in tables.items():
        check_values(path, f"{key}.{name}", values, lists=True)
    return tables


def _finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if value is not None and math.isfinite(value)}
