"""Kills at file operations, full disks, folders that cannot be written in, two processes in one folder.

Whatever happens, what was there can be read, and what is there is whole.
"""

import errno
import json
import multiprocessing
import os
import pathlib
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from faults import some
from test_faulty_saves import Model, checkpoints, read_checkpoints

from keras_dml.data.array_cache import cached
from keras_dml.utils.files import check_folder, check_output, read_json, write_json
from zoo.runs.checkpoint import Checkpoints, State
from zoo.runs.lock import locked
from zoo.runs.reading import read_embeddings
from zoo.runs.results import _save_arrays

CONFIG = {"recipe": {}, "held_out_classes": None, "data": {}, "weights": None, "sessions": [{}]}
EPOCHS = 4
WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def work(folder, model):
    """What a training writes: checkpoints epoch by epoch, then results. Goes on where it was stopped."""
    kept = Checkpoints(folder, CONFIG)
    kept._check_settled = lambda before: None
    with locked(folder / ".lock"):
        state = kept.restore(None, {}) or kept.begin({"recall@1": 0.1})
        while state.epochs < EPOCHS:
            losses = [float(epoch) for epoch in range(1, state.epochs + 2)]
            state = State(state.untrained, state.epochs + 1, {"loss": losses}, 1.0)
            kept.save(model, state)
        vectors = np.arange(24.0).reshape(12, 2).astype("float32")
        _save_arrays(folder / "test_embeddings.npz", embeddings=vectors, labels=np.arange(12) % 3)
        write_json(folder / "history.json", state.history)
        write_json(folder / "metrics.json", {"last": {"recall@1": 1.0}})
        kept.remove()


def in_child(function, *arguments):
    """The exit status of a fork of this process that calls `function`."""
    child = os.fork()
    if child == 0:
        # A fork that waits for ever is ended.
        signal.alarm(60)
        try:
            function(*arguments)
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(number, folder, model):
    """Works until the operation of this number on files in the folder, before which the process is killed."""
    left = [number]

    def count(event, arguments):
        if event not in WRITES or not arguments or str(folder) not in os.fsdecode(str(arguments[0])):
            return
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    real = os.fsync

    def fsync(descriptor):
        count("open", (str(folder),))
        real(descriptor)

    sys.addaudithook(count)
    os.fsync = fsync
    work(folder, model)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_kills_at_every_operation_on_files(tmp_path):
    model = Model()
    expected = tmp_path / "expected"
    assert in_child(work, expected, model) == 0
    statuses = []
    for number in some(110, 12):
        folder = tmp_path / f"killed-{number}"
        # The short selection is spread over the work.
        at = number if len(some(110, 12)) > 100 else number * 9
        statuses.append(in_child(killed_at, at, folder, model))
        # What has a name is whole.
        for path in folder.glob("[!.]*.json") if folder.exists() else ():
            read_json(path)
        if (folder / "test_embeddings.npz").exists():
            read_embeddings(folder / "test_embeddings.npz")
        # A second kill, while it goes on.
        in_child(killed_at, number % 7, folder, model)
        assert in_child(work, folder, model) == 0
        found = content(folder)
        assert {name: found[name] for name in content(expected)} == content(expected), number
        assert not set(found) - set(content(expected)), number
    assert statuses.count(-signal.SIGKILL) >= min(len(statuses), 80) * 0.8


@pytest.fixture
def small_disk(tmp_path):
    """A folder in which 256 KiB fit; the system's own tmpfs where that may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here; see test_files_that_grow_past_a_limit")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def writes(folder, size):
    """Writers of about `size` bytes, each with what reads the result."""
    vectors = np.random.default_rng(0).normal(size=(size // 8, 2)).astype("float32")
    return {
        "embeddings": lambda: _save_arrays(folder / "e.npz", embeddings=vectors, labels=np.zeros(len(vectors), int)),
        "json": lambda: write_json(folder / "values.json", {"values": "x" * size}),
    }


def assert_full_disk_is_survived(folder, size):
    for writer in writes(folder, 1000).values():
        writer()
    before = content(folder)
    for name, writer in writes(folder, size).items():
        with pytest.raises(OSError, match=r"No space left|File too large") as error:
            writer()
        assert error.value.errno in (errno.ENOSPC, errno.EFBIG), name
        assert content(folder) == before, name
    read_embeddings(folder / "e.npz")
    read_json(folder / "values.json")


def test_a_full_disk_leaves_what_was_there(small_disk):
    assert_full_disk_is_survived(small_disk, 1_000_000)
    # A checkpoint that does not fit leaves the one before.
    list(checkpoints(small_disk))
    (small_disk / "filler").write_bytes(bytes(_free(small_disk) - 8192))
    kept = Checkpoints(small_disk, CONFIG)
    with pytest.raises(OSError, match=r"No space left"):
        kept.save(Big(), State({}, 4, {"loss": [1.0] * 4}, 1.0))
    (small_disk / "filler").unlink()
    read_checkpoints(small_disk)
    assert not list(small_disk.glob(".partial*"))


class Big(Model):
    def save_weights(self, path):
        pathlib.Path(path).write_bytes(bytes(1_000_000))


def _free(folder):
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def test_files_that_grow_past_a_limit(tmp_path):
    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        assert_full_disk_is_survived(tmp_path, 1_000_000)

    assert in_child(limited) == 0


def test_a_full_disk_is_no_reason_not_to_read_data(small_disk, monkeypatch):
    monkeypatch.setenv("KERAS_DML_CACHE", str(small_disk))
    made = cached("a/b.npz", lambda: {"values": np.random.default_rng(0).normal(size=100_000)})
    assert len(made["values"]) == 100_000
    assert not [path for path in small_disk.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_written_in(small_disk):
    write_json(small_disk / "values.json", {"a": 1})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match=r"values\.json|Read-only"):
        write_json(small_disk / "values.json", {"a": 2})
    with pytest.raises(ValueError, match="cannot be written: no permission"):
        check_output(small_disk / "report.html")
    with pytest.raises(ValueError, match="cannot be written"):
        check_folder(small_disk / "models" / "one")
    with pytest.raises(OSError, match=r"\.lock|Read-only"), locked(small_disk / ".lock"):
        pass
    assert read_json(small_disk / "values.json") == {"a": 1}


def test_a_second_process_in_an_experiment_is_refused(tmp_path):
    folder = tmp_path / "experiment"
    with locked(folder / ".lock"):
        assert in_child(work, folder, Model()) == 1
        with (
            pytest.raises(ValueError, match=f"in use by another process: number {os.getpid()}"),
            locked(folder / ".lock"),
        ):
            pass
    assert in_child(work, folder, Model()) == 0


def write_often(folder, mark):
    for _ in range(60):
        write_json(folder / "values.json", {"values": [mark] * 20_000})


def test_two_processes_that_write_one_file(tmp_path):
    write_json(tmp_path / "values.json", {"values": [0] * 20_000})
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_often, args=(tmp_path, mark)) for mark in (1, 2)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        values = json.loads((tmp_path / "values.json").read_text())["values"]
        assert len(values) == 20_000
        assert len(set(values)) == 1
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["values.json"]
