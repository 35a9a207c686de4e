"""One device is N devices: loss, every weight and every state are the same after twelve steps.

On TensorFlow N replicas of a MirroredStrategy, on JAX DataParallel over N devices, and over two processes.
"""

import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_dml import losses

TENSORFLOW = keras.backend.backend() == "tensorflow"
SCRIPT = pathlib.Path(__file__).with_name("train_on_devices.py")
ROOT = SCRIPT.parents[2]
NAMES = (*losses.names(), *(["tfsim:multi_similarity", "tfsim:triplet"] if TENSORFLOW else []))
CASES = [f"{name}{das}" for name in NAMES for das in ("", "+das")]


def start(devices, output, cases, *more):
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend(), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, str(SCRIPT), str(devices), str(output), *cases, *more]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-3000:]


def assert_same(found, expected, cases):
    assert set(found) == set(expected)
    for name in expected:
        if name.split("|")[0] in cases:
            np.testing.assert_allclose(found[name], expected[name], atol=2e-5, rtol=2e-5, err_msg=name)


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    found = []
    for devices in (1, 2):
        finish(start(devices, folder / f"{devices}.npz", CASES))
        with np.load(folder / f"{devices}.npz") as saved:
            found.append(dict(saved))
    return found


@pytest.mark.parametrize("case", CASES)
def test_two_devices_train_what_one_trains(one_and_two, case):
    one, two = one_and_two
    assert_same(two, one, [case])
    # It trained: otherwise anything would be equal.
    weights = [value for name, value in one.items() if name.startswith(f"{case}|") and "kernel" in name]
    assert weights
    assert np.isfinite(one[f"{case}|log loss"]).all()
    if case.endswith("+das"):
        assert any("transformation_bank" in name and np.any(value) for name, value in one.items() if case in name)


@pytest.mark.skipif(TENSORFLOW, reason="several hosts: JAX only, see docs/accelerators.md")
def test_two_processes_train_what_one_trains(one_and_two, tmp_path):
    cases = ["multi_similarity+das", "proxy_anchor", "triplet+das", "cross_batch_memory"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    outputs = [tmp_path / f"{number}.npz" for number in (0, 1)]
    processes = [
        start(2, output, cases, "--process", str(number), "--address", address) for number, output in enumerate(outputs)
    ]
    for process in processes:
        finish(process)
    one = {name: value for name, value in one_and_two[0].items() if name.split("|")[0] in cases}
    for output in outputs:
        with np.load(output) as saved:
            assert_same(dict(saved), one, cases)
