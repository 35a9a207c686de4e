"""Command lines of every kind: at least 200 of them. Each ends with a status and a sentence, never with a traceback."""

import json
import os
import pathlib
import random
import warnings

import numpy as np
import pytest
from faults import some
from tiny_pictures import save

from keras_dml import cli

NUMBERS = ("0", "-1", "1", "2", "nan", "inf", "1e9", "9" * 40, "x", "", "1.5", "+2")
PATHS = ("missing", "empty", "file.txt", "file.txt/x", "x.npz", "broken.npz", "broken.keras", "broken", "pipe.npz", ".")
NAMES = ("digits", "cub200", "no_such", "", "ö", "a/b", "folder", "\udcff", "cars196_cropped", "inshop")
KEYS = (
    "lr",
    "learning_rate",
    "embedding_dim",
    "das.top_k",
    "arms.das",
    "arms",
    "loss_args.margin",
    "",
    "=",
    "ks",
    "seeds",
)
SETTINGS = ("", "0", "-1", "None", "[", "()", "{}", "nan", "'x'", "9" * 40, "(1,", "__import__('os')", "1e400", "True")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    (folder / "empty").mkdir()
    (folder / "file.txt").write_text("text")
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{}")
    (folder / "broken" / "experiment.json").write_text("[]")
    np.savez(folder / "x.npz", embeddings=np.eye(6), labels=[0, 0, 1, 1, 2, 2], ids=list("abcdef"))
    for name in ("broken.npz", "broken.keras"):
        (folder / name).write_bytes(b"PK\x03\x04 nothing")
    os.mkfifo(folder / "pipe.npz")
    for name in "ab":
        save(folder / "images" / name / "1.jpg", 0)
    return folder


def options(dice, *known):
    chosen = dice.sample(known, dice.randrange(len(known) + 1))
    return [part for flag, values in chosen for part in (flag, dice.choice(values))]


def command(dice):
    paths, numbers = PATHS, NUMBERS
    output = ("--output", ("out.json", "file.txt/o.json", "empty", "pipe.npz", "/proc/none/o", ""))
    data = ("--data-dir", paths)
    benchmark = ("--benchmark", NAMES)
    assigned = ("--set", tuple(f"{dice.choice(KEYS)}={dice.choice(SETTINGS)}" for _ in range(4)))
    match dice.randrange(9):
        case 0 | 1:
            flags = [("--ks", ("1,2", "0", "x", ",", "1,,2", "99")), ("--clusters", numbers), ("--seed", numbers)]
            flags += [("--metric", ("cosine", "euclidean", "x")), ("--gallery", paths), output, data, benchmark]
            return ["evaluate", dice.choice(paths), *options(dice, *flags, ("--batch-size", numbers))]
        case 2 | 3:
            # Nothing is trained here.
            return ["reproduce", dice.choice(NAMES), "--show", *options(dice, assigned, ("--epochs", numbers), data)]
        case 4:
            return ["compare", dice.choice(paths), dice.choice(paths), *options(dice, output, ("--metrics", ("", "x")))]
        case 5:
            return ["report", dice.choice(paths), *options(dice, output, data, ("--map", ("pca", "x")))]
        case 6:
            flags = [("--recall", numbers), ("--k", numbers), ("--batch-size", numbers), ("--keep", numbers), output]
            gallery = dice.choice((*paths, *NAMES, "images", "folder:test", "folder:x"))
            return ["build", dice.choice(paths), "--gallery", gallery, *options(dice, *flags, data)]
        case 7:
            flags = [("--add", (*paths, "images")), ("--remove", ("a", "")), ("--remove-file", paths)]
            return ["update", dice.choice(paths), *options(dice, *flags)]
        case _:
            first = dice.choice((["search", dice.choice(paths), dice.choice(paths)], ["serve", "missing"], ["x"], []))
            return [*first, *options(dice, ("--k", numbers))]


def test_command_lines(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    before = state(folder)
    found, statuses = [], []
    for seed in some(240, 40):
        line = command(random.Random(seed))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                status = cli.main(line)
        except SystemExit as error:
            status = error.code
        except Exception as error:
            where = error.__traceback__
            while where.tb_next is not None:
                where = where.tb_next
            at = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}"
            found.append(f"seed {seed}: {line}: {type(error).__name__}: {str(error)[:200]} at {at}")
            continue
        shown = capsys.readouterr()
        statuses.append(status)
        if status not in (0, 1, 2):
            found.append(f"seed {seed}: {line}: status {status}")
        elif status and not ("error: " in shown.err and shown.err.strip()) and line:
            found.append(f"seed {seed}: {line}: no error text, but {shown.err[-200:]!r}")
        for written in ("out.json", "x.evaluation.json"):
            if (folder / written).is_file():
                json.loads((folder / written).read_text())
                (folder / written).unlink()
    assert not found, "\n".join(found)
    assert set(statuses) == {0, 1, 2}
    # Nothing that was there has changed, and nothing is left half written.
    assert {name: size for name, size in state(folder).items() if name in before} == before
    assert not [name for name in state(folder) if "partial" in name]


def state(folder):
    return {str(path.relative_to(folder)): path.stat().st_size for path in pathlib.Path(folder).rglob("*")}
