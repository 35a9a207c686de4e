"""The state of an unfinished run, so that disks and processes may fail at any moment.

After every epoch two files are written, each aside, flushed to disk and renamed:

    checkpoint-EPOCHS.weights.h5    weights, optimizers, the state of DAS and of the loss
    checkpoint-EPOCHS.json          history, time spent, run.json, and the SHA-256 of the weights and of itself

and `best-encoder-EPOCHS.weights.h5` where held-out classes choose the epoch. The two newest checkpoints are kept. A
damaged one is passed over for the one before; as a batch depends on the seed and the step alone, the run still ends as
it would have.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_dml.utils.files import as_json, read_json, sha256, write_json, written_aside
from zoo.averaging import averaged
from zoo.recipe import settings_as_saved
from zoo.runs import exact_weights
from zoo.runs.layout import RunFolder

if TYPE_CHECKING:
    import keras

KEPT = 2
PATTERNS = ("checkpoint-*.json", "checkpoint-*.weights.h5", "best-encoder-*.weights.h5", ".partial-*")
SETTLED = ("recipe", "held_out_classes", "data", "weights")
"""What of run.json must be as it was for an unfinished run to go on."""


@dataclasses.dataclass
class State:
    """Where a run stands.

    Args:
        untrained: Metrics of the untrained network.
        epochs: Epochs done.
        history: The logs of each of them, by name.
        seconds: Time spent on them.
        best: File of the best encoder so far, where held-out classes choose it.
    """

    untrained: dict[str, float]
    epochs: int = 0
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    best: str | None = None


class Checkpoints:
    """The checkpoints in a run folder.

    Args:
        folder: The run folder.
        config: run.json of the run as it would begin now.
    """

    def __init__(self, folder: pathlib.Path, config: Mapping[str, Any]) -> None:
        self.files = RunFolder(folder)
        self.config = as_json(config)

    def restore(self, model: "keras.Model | None", session: Mapping[str, Any]) -> State | None:
        """Loads the newest whole checkpoint into `model`, and notes in run.json who goes on.

        Warns of damaged ones by name.

        Args:
            model: The compiled model, with the weights it began with; None to look at the state alone.
            session: What this process computes with.

        Returns:
            Where the run stands; None where nothing can be gone on with.

        Raises:
            ValueError: If the run was begun with other settings or on other data.
        """
        damaged: list[str] = []
        for path in _newest_first(self.files.path):
            try:
                content = _read(path)
            except (ValueError, OSError) as error:
                damaged.append(str(error))
                continue
            break
        else:
            if damaged:
                warnings.warn(f"{'. '.join(damaged)}. No checkpoint is whole: the run begins again", stacklevel=2)
            return None
        self._check_settled(content["config"])
        state = State(**content["state"])
        if damaged:
            warnings.warn(
                f"{'. '.join(damaged)}. The run goes on from {path.name}, after {state.epochs} epochs", stacklevel=2
            )
        if model is not None and state.epochs:
            model.load_weights(_weights(self.files.path, state.epochs))
            exact_weights.restore(model.encoder, _weights(self.files.path, state.epochs))
        # run.json may have been lost, too.
        before = content["config"]
        sessions = before["sessions"] + [one for one in [as_json(session)] if one not in before["sessions"]]
        self.config = {**before, "sessions": sessions}
        write_json(self.files.config, self.config)
        return state

    def begin(self, untrained: Mapping[str, float]) -> State:
        """Writes run.json and the first checkpoint: the numbers of the untrained network."""
        self.remove()
        write_json(self.files.config, self.config)
        state = State(dict(untrained))
        self._write(state, [])
        return state

    def save(self, model: "keras.Model", state: State, improved: bool = False) -> None:
        """Saves the state after an epoch, then forgets all but the newest two.

        Args:
            model: The `MetricLearner` that is trained.
            state: Where the run stands; `best` is set here.
            improved: Whether the encoder is the best so far.
        """
        folder = self.files.path
        weights = _weights(folder, state.epochs)
        with written_aside(weights) as aside:
            model.save_weights(aside)
            exact_weights.append(model.encoder, aside)
        if improved:
            best = folder / f"best-encoder-{state.epochs}.weights.h5"
            with written_aside(best) as aside, averaged(model):
                model.encoder.save_weights(aside)
            state.best = best.name
        self._write(state, [weights.name, *([state.best] if state.best else [])])
        self._forget()

    def load_best(self, encoder: "keras.Model", state: State) -> None:
        """Puts the best encoder so far into `encoder`."""
        assert state.best is not None
        encoder.load_weights(self.files.path / state.best)

    def remove(self) -> None:
        """Deletes the checkpoints, once the run is finished."""
        remove(self.files.path)

    def _check_settled(self, before: Mapping[str, Any]) -> None:
        before = {**before, "recipe": as_json(settings_as_saved(before["recipe"]))}
        names = [name for name in SETTLED if before.get(name) != self.config[name]]
        if names:
            raise ValueError(
                f"The unfinished run in {self.files.path} was started with other settings or data (they differ in: "
                f"{', '.join(names)}). Give another --output, or delete the folder, or repeat the settings it was "
                "started with"
            )

    def _write(self, state: State, names: list[str]) -> None:
        folder = self.files.path
        content = {
            "state": as_json(dataclasses.asdict(state)),
            "config": self.config,
            "files": {name: sha256(folder / name) for name in names},
        }
        write_json(folder / f"checkpoint-{state.epochs}.json", {**content, "sha256": _checksum(content)})

    def _forget(self) -> None:
        folder = self.files.path
        descriptions = _newest_first(folder)
        # A description goes before what it describes.
        for path in descriptions[KEPT:]:
            path.unlink()
        needed: set[str] = set()
        for path in descriptions[:KEPT]:
            try:
                needed |= {path.name, *read_json(path)["files"]}
            except (ValueError, KeyError, TypeError):
                # Damaged: what belongs to it is of no use.
                continue
        for pattern in PATTERNS[1:]:
            for path in folder.glob(pattern):
                if path.name not in needed:
                    path.unlink(missing_ok=True)


def epochs_done(folder: pathlib.Path) -> int:
    """Epochs that an unfinished run in `folder` need not repeat, as far as a look at the descriptions can tell."""
    for path in _newest_first(folder):
        try:
            return int(_description(path)["state"]["epochs"])
        except (ValueError, OSError):
            continue
    return 0


def threads_used(folder: pathlib.Path) -> int | None:
    """Threads for an operation that an unfinished run in `folder` was begun with; None where nothing says it."""
    for path in _newest_first(folder):
        try:
            return _description(path)["config"]["machine"]["threads"]
        except (ValueError, OSError, KeyError, TypeError):
            continue
    return None


def remove(folder: pathlib.Path) -> None:
    """Deletes the checkpoints in a run folder, and what a killed process left half written."""
    for pattern in PATTERNS:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _weights(folder: pathlib.Path, epochs: int) -> pathlib.Path:
    return folder / f"checkpoint-{epochs}.weights.h5"


def _newest_first(folder: pathlib.Path) -> list[pathlib.Path]:
    """The descriptions of checkpoints in a folder."""
    found = {}
    for path in folder.glob(PATTERNS[0]):
        match = re.fullmatch(r"checkpoint-(\d+)\.json", path.name)
        if match:
            found[int(match[1])] = path
    return [found[epochs] for epochs in sorted(found, reverse=True)]


def _description(path: pathlib.Path) -> dict[str, Any]:
    """The content of a checkpoint's JSON file, if it is what was written."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged. Expected: a JSON object. Found: {type(content).__name__}")
    expected = content.pop("sha256", None)
    if expected != _checksum(content):
        raise ValueError(f"{path} is damaged: its content does not fit its checksum")
    return content


def _read(path: pathlib.Path) -> dict[str, Any]:
    """A checkpoint's description, if all its files are as they were written."""
    content = _description(path)
    for name, expected in content["files"].items():
        file = path.parent / name
        if not file.is_file():
            raise ValueError(f"{file} is missing")
        found = sha256(file)
        if found != expected:
            raise ValueError(f"{file} is damaged. Expected: sha256 {expected}. Found: {found}")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
