"""A run that is stopped, in the ways runs are stopped, goes on with the same command and ends bit for bit the same."""

import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from keras_dml.utils import files
from zoo import reproduce

ROOT = pathlib.Path(__file__).parents[2]
EPOCHS = 3
# One arm with every kind of state: DAS, a loss with weights, a memory and an optimizer of its own, lr_milestones.
# Batches of four make an epoch of 225 steps.
COMMAND = [
    "digits",
    *("--epochs", str(EPOCHS), "--seed", "3"),
    *("--set", "arms={'das': {}}"),
    *("--set", "loss=cross_batch_memory", "--set", "loss_args={'loss': 'margin', 'memory_size': 64}"),
    *("--set", "loss_learning_rate=0.01", "--set", "lr_milestones=(1,)"),
    *("--set", "classes_per_batch=2", "--set", "backbone_options.widths=(4, 8)"),
]
RUN, SELECTION = pathlib.Path("das", "seed-3"), pathlib.Path("das", "selection")
# What a process leaves that is killed while it writes: nothing of this may ever be read.
LEFTOVERS = (
    ".partial-checkpoint-1.weights.h5",
    ".partial-best-encoder-1.weights.h5",
    # Renamed, but not yet described by checkpoint-1.json.
    "checkpoint-1.weights.h5",
    ".partial-checkpoint-1.json",
    ".partial-history.json",
    ".partial-metrics.json",
)
WORK = 0.3
"""Seconds of computing after an epoch was saved: far more than what is left of that epoch, far less than the next."""


class Process:
    """`python -m zoo.reproduce` as users start it."""

    def __init__(self, folder, log):
        self.output, self.errors = log.with_suffix(".out"), log.with_suffix(".err")
        with self.output.open("w") as output, self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "zoo.reproduce", *COMMAND, "--output", str(folder)],
                cwd=ROOT,
                stdout=output,
                stderr=errors,
            )

    def stop_within_an_epoch(self, run, epochs, number):
        """Sends signal `number` in the middle of an epoch, as soon as `epochs` epochs of `run` are saved.

        Returns:
            The exit status, and how many epochs were saved.
        """
        try:
            seen, since = None, 0.0
            deadline = time.monotonic() + 600
            while seen is None or self._computed() - since < WORK:
                assert self.process.poll() is None, f"ended before it was stopped: {self.errors.read_text()}"
                assert time.monotonic() < deadline, f"{epochs} epochs took too long: {self.output.read_text()}"
                saved = epochs_saved(run)
                if saved is not None and saved >= epochs and saved != seen:
                    seen, since = saved, self._computed()
                time.sleep(0.005)
            self.process.send_signal(number)
            while self.process.poll() is None:
                assert time.monotonic() < deadline, f"did not stop: {self.output.read_text()}"
                time.sleep(0.005)
            status = self.process.returncode
        finally:
            self.process.kill()
            self.process.wait()
        # It was stopped before its end, and what was computed since the last save is lost.
        assert not (run / "metrics.json").exists()
        assert epochs <= epochs_saved(run) < EPOCHS
        return status, epochs_saved(run)

    def _computed(self):
        """Seconds of processor time: unlike time on the clock, they mean the same on a busy machine."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def epochs_saved(run):
    epochs = [int(path.stem.rpartition("-")[2]) for path in run.glob("checkpoint-*.json")]
    return max(epochs, default=None)


def first_epoch(process):
    """The first epoch that a process reported."""
    return int(re.search(r"epoch (\d+)/", process.errors.read_text()).group(1))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "digits"
    assert reproduce.main([*COMMAND, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The same experiment, stopped three times."""
    logs = tmp_path_factory.mktemp("interrupted")
    folder = logs / "digits"

    killed = Process(folder, logs / "1")
    assert killed.stop_within_an_epoch(folder / RUN, 0, signal.SIGKILL) == (-signal.SIGKILL, 0)
    assert not list((folder / RUN).glob("checkpoint-*.h5"))
    for name in LEFTOVERS:
        (folder / RUN / name).write_bytes(b'{"epochs": 3, "weig')

    killed = Process(folder, logs / "2")
    status, saved = killed.stop_within_an_epoch(folder / RUN, 1, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert first_epoch(killed) == 1
    for name in set(LEFTOVERS) - {"checkpoint-1.weights.h5"}:
        (folder / RUN / name).write_bytes(b'{"epochs": 3, "weig')

    stopped = Process(folder, logs / "3")
    status, saved_selection = stopped.stop_within_an_epoch(folder / SELECTION, 1, signal.SIGINT)
    assert first_epoch(stopped) == saved + 1
    assert status == 130
    message = "Interrupted. Finished epochs are kept: the same command goes on after the last of them."
    assert stopped.errors.read_text().splitlines()[-1] == message
    # As if the export had been killed, and the picture half written.
    (folder / "export" / "digits" / ".writing-0123456789ab").mkdir(parents=True)
    (folder / f".partial-{files._host()}-{stopped.process.pid}-query.png").write_bytes(b"\x89PNG")

    last = Process(folder, logs / "4")
    assert last.process.wait(timeout=600) == 0, last.errors.read_text()
    assert first_epoch(last) == saved_selection + 1
    assert "not repeated" not in last.output.read_text()
    return folder


@pytest.mark.parametrize("run", [RUN, SELECTION], ids=str)
def test_it_ends_bit_for_bit_as_without_interruption(whole, interrupted, run):
    expected, found = (json.loads((folder / run / "history.json").read_text()) for folder in (whole, interrupted))
    assert {len(values) for values in expected.values()} == {EPOCHS}
    # It learned: otherwise anything would be equal.
    assert len(set(expected["loss"])) == EPOCHS
    assert found == expected
    expected, found = (json.loads((folder / run / "metrics.json").read_text()) for folder in (whole, interrupted))
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}
    for name in ("test_embeddings.npz", "das_state.npz"):
        expected, found = np.load(whole / run / name), np.load(interrupted / run / name)
        assert expected.files == found.files
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key], err_msg=f"{name}: {key}")


def test_the_record_is_the_same(whole, interrupted):
    def arms(folder):
        record = json.loads((folder / "record.json").read_text())
        return {
            arm: {name: value for name, value in values.items() if "seconds" not in name}
            for arm, values in record["arms"].items()
        }

    assert arms(interrupted) == arms(whole)
    assert (interrupted / "table.md").read_text() == (whole / "table.md").read_text()


def test_nothing_is_left_of_the_interruptions(whole, interrupted):
    def names(folder):
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if ".writing-" not in str(path)}

    assert names(interrupted) == names(whole)


def test_the_export_answers_after_an_interrupted_one(interrupted):
    import export

    saved = np.load(interrupted / RUN / "test_embeddings.npz")
    found = export.load(interrupted / "export" / "digits").search_embeddings(saved["embeddings"][:5], k=1)
    assert found.ids[:, 0].tolist() == saved["ids"][:5].tolist()


def contents(folder):
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_finished_run_is_shown_not_overwritten(whole, capsys):
    before = contents(whole)
    assert reproduce.main([*COMMAND, "--output", str(whole)]) == 0
    output = capsys.readouterr().out
    assert "finished; it is shown, not repeated" in output
    assert (whole / "table.md").read_text().splitlines()[0] in output
    after = contents(whole)
    kept = {name for name in before if name.startswith(("das/", "export/")) or name in ("experiment.json", "query.png")}
    assert len(kept) > 15
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert set(after) == set(before)


@pytest.mark.parametrize(
    "change", [["--epochs", "2"], ["--seed", "4"], ["--set", "das.top_k=3"], ["--folds", "2"]], ids=" ".join
)
def test_other_settings_are_refused_and_change_nothing(whole, capsys, change):
    before = contents(whole)
    assert reproduce.main([*COMMAND, "--output", str(whole), *change]) == 1
    assert "Nothing was changed. Give another --output" in capsys.readouterr().err
    assert contents(whole) == before
