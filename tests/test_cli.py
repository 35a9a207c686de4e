"""The console script `keras-dml`, as users type it."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from keras_dml import cli

SCRIPT = pathlib.Path(sys.executable).with_name("keras-dml")


def run(*arguments, cwd=None, **environment):
    return subprocess.run(
        [str(SCRIPT), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ, **environment),
    )


def test_it_works_beside_folders_of_the_same_names(tmp_path):
    """`python -m zoo.reproduce` would find somebody else's zoo in the working folder."""
    for name in ("zoo", "export"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not this one')")
    tiny = ["--epochs", "1", "--seed", "0", "--set", "steps_per_epoch=2", "--set", "lr_milestones=()"]
    done = run("reproduce", "digits", *tiny, "--set", "arms={'das': {}}", "--set", "select_epoch=False", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Unseen classes, last epoch" in done.stdout
    (query,) = (tmp_path / "runs" / "digits").glob("query.png")
    found = run("search", "runs/digits/export/digits", str(query), cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "nearest of 896 items" in found.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_under_its_name(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: keras-dml {name} ")


def test_wrong_calls(capsys):
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().err
    assert cli.main(["reproduse"]) == 2
    assert capsys.readouterr().err.startswith("error: Unknown command 'reproduse'. Did you mean 'reproduce'?")
    assert cli.main(["--help"]) == 0
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].count(".") == 2


# Of each command, a call that is wrong and one that fails.
WRONG = {
    "reproduce": ["digts"],
    "tune": ["digts"],
    "evaluate": ["encoder.keras"],
    "compare": [],
    "report": ["--map", "umap", "run"],
    "build": ["run"],
    "update": [],
    "search": ["model"],
    "serve": ["--rest-port", "http", "model"],
}
FAILING = {
    "reproduce": ["cub200", "--data-dir", "nowhere"],
    "tune": ["cub200", "--data-dir", "nowhere"],
    "evaluate": ["nowhere"],
    "compare": ["nowhere"],
    "report": ["nowhere"],
    "build": ["nowhere", "--gallery", "digits"],
    "update": ["nowhere", "--remove", "a"],
    "search": ["nowhere", "query.png"],
    "serve": ["nowhere"],
}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_exit_status_and_errors_are_the_same_everywhere(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for calls, status in ((WRONG, 2), (FAILING, 1)):
        try:
            found = cli.main([name, *calls[name]])
        except SystemExit as ended:
            found = ended.code
        assert found == status
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
    assert not list(tmp_path.iterdir())


def test_warnings_are_one_line_without_source(tmp_path):
    done = run("reproduce", "digits", "--show", "--epochs", "1", cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: The run has epochs=1, and ends before the learning rate falls")


@pytest.mark.skipif(importlib.util.find_spec("openvino") is not None, reason="openvino is installed")
def test_a_backend_that_is_not_installed_is_named(tmp_path):
    done = run("reproduce", "digits", cwd=tmp_path, KERAS_BACKEND="openvino")
    assert done.returncode == 1
    assert done.stderr.startswith("error: Keras's backend cannot be imported: No module named 'openvino'")
    assert done.stderr.count("\n") == 1
    used = [sys.executable, "-c", "import keras_dml; keras_dml.MetricLearner"]
    environment = dict(os.environ, KERAS_BACKEND="openvino")
    done = subprocess.run(used, capture_output=True, text=True, check=False, env=environment)
    assert "ImportError: Keras's backend cannot be imported: No module named 'openvino'" in done.stderr


@pytest.mark.parametrize("backend", ["torch", "numpy", "openvino"])
def test_backends_that_cannot_train_are_refused(backend, monkeypatch):
    import keras

    from keras_dml import MetricLearner

    learner = MetricLearner(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    with pytest.raises(ValueError, match=f"Training runs on Keras's TensorFlow and JAX.*KERAS_BACKEND={backend}"):
        learner.compile(loss="contrastive")
