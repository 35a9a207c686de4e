"""How a command ends whose output nobody reads, as in `... | head`."""

import os
import pathlib
import subprocess
import sys

import pytest

# As `python -m MODULE ...` is run, building nothing.
BUILD = """
import runpy, sys
from keras_dml.utils import command
command.execute = lambda work, interrupted="": print("model/1") or 0
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__")
"""
# As `python -m export.search MODEL_DIR IMAGE` is run, with more to say than a pipe's buffer holds.
SEARCH = """
import runpy, sys, types
found = types.SimpleNamespace(ids=[["name"] * 1000], scores=[[0.5] * 1000], metadata={})
sys.modules["export.search_model"] = types.SimpleNamespace(load=lambda path: type("Model", (), {
    "__len__": lambda self: 1000, "search": lambda self, image, k, where: found})())
sys.argv = ["export.search", "model", "README.md"]
runpy.run_module("export.search", run_name="__main__")
"""
ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "zoo.reproduce", "--list"],
        # Too short to be written before the command returns.
        ["-c", "from keras_dml.utils.command import run; run(lambda: print('short') or 0)"],
        ["-c", BUILD, "export.build", "run", "--gallery", "digits"],
        ["-c", BUILD, "export.update", "model"],
        ["-c", SEARCH],
    ],
    ids=["list", "short", "build", "update", "search"],
)
def test_a_command_whose_reader_is_gone_ends_quietly(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_other_errors_are_shown_and_the_status_is_kept():
    script = "from keras_dml.utils.command import run; run(lambda: {})"
    failed = subprocess.run([sys.executable, "-c", script.format("open('nowhere')")], cwd=ROOT, capture_output=True)
    assert failed.returncode == 1
    assert b"FileNotFoundError" in failed.stderr
    assert subprocess.run([sys.executable, "-c", script.format("3")], cwd=ROOT).returncode == 3
