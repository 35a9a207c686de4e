"""What disks and processes do to an unfinished run: it goes on from what is whole, and says what was not."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest

from keras_dml.data import load
from keras_dml.evaluation import class_folds
from zoo import recipes, reproduce, training
from zoo.experiment import Experiment
from zoo.recipe import DAS
from zoo.runs import RunFolder, checkpoint, provenance
from zoo.runs.checkpoint import KEPT
from zoo.runs.lock import locked

EPOCHS = 4
ROOT = pathlib.Path(__file__).parents[2]


class Stopped(Exception):
    pass


class Stop(training.Watcher):
    def on_epoch(self, epochs, logs):
        if epochs == EPOCHS - 1:
            raise Stopped


def recipe():
    small = {"epochs": EPOCHS, "backbone_options": {"widths": (4,)}, "das": DAS(top_k=2), "steps_per_epoch": 4}
    return dataclasses.replace(recipes.get("digits"), **small)


def fold(benchmark):
    return next(iter(class_folds(benchmark.train.labels, 2)))


def train(folder, watcher=None):
    benchmark = load("digits")
    training.train(recipe(), "das", 5, benchmark, folder, watcher, fold(benchmark))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The same run, stopped before its last epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Stopped):
        train(folder, Stop())
    return folder


def assert_same(found, expected):
    for name in ("test_embeddings.npz", "das_state.npz"):
        one, other = np.load(expected / name), np.load(found / name)
        for key in one:
            np.testing.assert_array_equal(other[key], one[key], err_msg=f"{name}: {key}")
    for name in ("history.json", "metrics.json"):
        one, other = (json.loads((folder / name).read_text()) for folder in (expected, found))
        assert {**other, "seconds": 0} == {**one, "seconds": 0}


def test_two_checkpoints_are_kept(stopped):
    names = {path.name for path in stopped.iterdir()}
    for epochs in (EPOCHS - 1, EPOCHS - 2):
        assert {f"checkpoint-{epochs}.json", f"checkpoint-{epochs}.weights.h5"} <= names
    assert len([name for name in names if name.endswith(".json")]) == KEPT + 1
    assert not [name for name in names if "partial" in name]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def remove(path):
    path.unlink()


def out_of_range(path):
    content = json.loads(path.read_text())
    content["state"]["epochs"] = 10**9
    path.write_text(json.dumps(content))


def another_kind(path):
    path.write_text("[]")


NEWEST = f"checkpoint-{EPOCHS - 1}"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((f"{NEWEST}.weights.h5", damage) for damage in (cut, empty, flip, remove)),
        *((f"{NEWEST}.json", damage) for damage in (cut, empty, flip, out_of_range, another_kind)),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(whole, stopped, tmp_path, name, damage):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    damage(folder / name)
    with pytest.warns(UserWarning, match=rf"{name.replace('.', '.')}.*goes on from checkpoint-{EPOCHS - 2}\.json"):
        train(folder)
    assert_same(folder, whole)
    assert not list(folder.glob("*checkpoint*"))


def test_when_all_are_damaged_the_run_begins_again(whole, stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    for path in folder.glob("checkpoint-*.weights.h5"):
        cut(path)
    with pytest.warns(UserWarning, match="No checkpoint is whole: the run begins again"):
        train(folder)
    assert_same(folder, whole)


def test_a_damaged_best_encoder_is_noticed(whole, stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    for path in folder.glob("best-encoder-*.weights.h5"):
        flip(path)
    with pytest.warns(UserWarning, match=r"best-encoder-\d\.weights\.h5 is damaged"):
        train(folder)
    assert_same(folder, whole)


@pytest.mark.parametrize("damage", [cut, empty, remove])
def test_run_json_is_written_again_from_the_checkpoint(stopped, tmp_path, damage):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    before = json.loads((folder / "run.json").read_text())
    damage(folder / "run.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(folder)
    assert json.loads((folder / "run.json").read_text()) == before


def test_a_full_disk_keeps_the_checkpoint_before(stopped, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    replace = os.replace

    def full(source, target):
        if str(target).endswith(f"checkpoint-{EPOCHS}.weights.h5"):
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=rf"No space left on device: .*checkpoint-{EPOCHS}\.weights\.h5"):
        train(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_epochs_done_are_told_without_reading_the_weights(stopped, tmp_path):
    assert checkpoint.epochs_done(stopped) == EPOCHS - 1
    assert checkpoint.epochs_done(tmp_path) == 0


def test_a_second_process_is_refused_and_the_first_is_named(tmp_path, capsys):
    folder = tmp_path / "runs"
    with locked(Experiment(recipe(), folder).files.lock):
        command = [sys.executable, "-m", "zoo.reproduce", "digits", "--output", str(folder)]
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert f"{folder} is in use by another process: number {os.getpid()} on " in second.stderr
        assert [path.name for path in folder.iterdir()] == [".lock"]
    # The lock goes with its holder, and so does a folder that holds nothing else.
    assert not folder.exists()


def test_a_lock_of_a_killed_process_holds_nobody_up(tmp_path):
    script = (
        "import os, pathlib, signal, sys; from zoo.runs.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    file = tmp_path / "runs" / ".lock"
    subprocess.run([sys.executable, "-c", script, str(file)], cwd=ROOT, check=False)
    assert file.exists()
    with locked(file):
        assert json.loads(file.read_text())["pid"] == os.getpid()


def test_threads_are_recorded_and_kept(whole, tmp_path, monkeypatch):
    machine = json.loads((whole / "run.json").read_text())["machine"]
    assert machine["threads"] == 2
    assert machine["cpu"] == provenance.cpu_model()
    assert machine["instruction_set"] in (*provenance.INSTRUCTION_SETS, None)
    # An experiment goes on with the threads it was begun with, whatever the recipe's default or the machine's cores.
    experiment = Experiment(dataclasses.replace(recipe(), threads=None), tmp_path)
    monkeypatch.setattr("zoo.experiment.available_cores", lambda: 7)
    assert experiment.threads() == 7
    experiment.start(load("digits"))
    monkeypatch.setattr("zoo.experiment.available_cores", lambda: 3)
    assert experiment.threads() == 7
    with pytest.warns(UserWarning, match=r"already runs with 2 threads .* asks for 5"):
        provenance.use_threads(5)


def test_another_number_of_threads_is_another_experiment(tmp_path, capsys):
    arguments = ["digits", "--output", str(tmp_path), "--epochs", "1", "--seed", "1", "--set", "steps_per_epoch=1"]
    arguments += ["--set", "arms={'das': {}}", "--set", "lr_milestones=()", "--set", "select_epoch=False"]
    assert reproduce.main(arguments) == 0
    assert json.loads((tmp_path / "experiment.json").read_text())["threads"] == 2
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["machine"][0]["threads"] == 2
    capsys.readouterr()
    assert reproduce.main([*arguments, "--set", "threads=3"]) != 0
    assert "differ in: threads" in capsys.readouterr().err


def test_what_version_0_1_wrote_is_read(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "image_encoder.json").unlink()
    from zoo.runs import open_run

    old, new = open_run(folder).image_encoder(), open_run(whole).image_encoder()
    images = load("digits").test.images[:3]
    np.testing.assert_array_equal(old.embed(images), new.embed(images))
    (tmp_path / "experiment.json").write_text(json.dumps({"format": 1, "runs": ["run"], "shipped": "run"}))
    assert open_run(tmp_path).folder == folder
    assert RunFolder(folder).finished
