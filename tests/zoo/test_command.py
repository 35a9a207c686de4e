"""How a command ends whose output nobody reads, as in `... | head`."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "zoo.reproduce", "--list"],
        # Too short to be written before the command returns.
        ["-c", "from zoo.command import run; run(lambda: print('short') or 0)"],
    ],
    ids=["list", "short"],
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
    script = "from zoo.command import run; run(lambda: {})"
    failed = subprocess.run([sys.executable, "-c", script.format("open('nowhere')")], cwd=ROOT, capture_output=True)
    assert failed.returncode == 1
    assert b"FileNotFoundError" in failed.stderr
    assert subprocess.run([sys.executable, "-c", script.format("3")], cwd=ROOT).returncode == 3
