"""Encoders that ship with the package, and how one gets there."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import keras_dml as dml
import zoo
from zoo import pretrained
from zoo.runs import open_run

FRESH_PROCESS = """
import sys
import zoo
assert not {"tensorflow", "keras", "numpy"} & set(sys.modules), "import zoo should be quick"
import numpy as np
model = zoo.load("digits")
print(*model.embed(np.zeros((3, 20, 16, 3), np.uint8)).shape)
"""


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A copy of the shipped files, free to be spoilt."""
    folder = tmp_path / "weights"
    shutil.copytree(pretrained.WEIGHTS, folder)
    monkeypatch.setattr(pretrained, "WEIGHTS", folder)
    return folder


@pytest.fixture
def run(tmp_path):
    """A finished run folder, made of what is shipped."""
    folder = tmp_path / "run"
    folder.mkdir()
    entry = json.loads((pretrained.WEIGHTS / "index.json").read_text())["digits"]
    shutil.copyfile(pretrained.WEIGHTS / entry["file"], folder / "encoder.keras")
    (folder / "run.json").write_text(json.dumps(entry["config"]))
    (folder / "metrics.json").write_text(json.dumps({"untrained": {}, "last": {"recall@1": 0.75}, "seconds": 1.0}))
    return folder


def change(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_loads_in_a_fresh_process():
    done = subprocess.run([sys.executable, "-c", FRESH_PROCESS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "8"]


def test_index_and_files_agree():
    index = json.loads((pretrained.WEIGHTS / "index.json").read_text())
    files = {path.name for path in pretrained.WEIGHTS.iterdir()}
    assert files == {"index.json", *(entry["file"] for entry in index.values())}
    for entry in index.values():
        assert (pretrained.WEIGHTS / entry["file"]).stat().st_size == entry["bytes"]
        assert entry["config"]["recipe"]["weights"] is None
        assert re.fullmatch("[0-9a-f]{40}", entry["config"]["code"]["commit"])
        assert entry["config"]["code"]["modified"] is False


@pytest.mark.parametrize("name", pretrained.names())
def test_every_shipped_encoder_loads(name):
    model = zoo.load(name)
    images = np.random.default_rng(0).integers(0, 256, (2, 30, 20, 1), np.uint8)
    embeddings = model.embed(images)
    assert (embeddings.shape, embeddings.dtype) == ((2, model.config["embedding_dim"]), np.float32)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(embeddings, model.encoder(model.preprocessing(images)), atol=1e-5)


def test_digits_reproduce_the_recorded_metrics():
    model = zoo.load("digits")
    test = dml.data.load("digits").test
    result = dml.evaluation.evaluate_retrieval(model.embed(test.images), test.labels)
    for k in (1, 2, 4, 8):
        assert result.recall[k] == pytest.approx(model.metrics[f"recall@{k}"], abs=2e-3)
    assert result.map_at_r == pytest.approx(model.metrics["map@r"], abs=1e-3)


def test_image_files_embed_like_their_pixels(tmp_path):
    import keras

    model = zoo.load("digits")
    images = dml.data.load("digits").test.images[:2]
    paths = [tmp_path / f"{row}.png" for row in range(2)]
    for path, image in zip(paths, images, strict=True):
        keras.utils.save_img(path, image, scale=False)
    expected = model.embed(images)
    # One file may be given twice, and batches may be smaller than the whole.
    embeddings = model.embed([str(paths[1]), paths[0], paths[1]], batch_size=2)
    np.testing.assert_allclose(embeddings, expected[[1, 0, 1]], atol=1e-6)
    assert model.embed([]).shape == model.embed(images[:0]).shape == (0, 8)


def test_what_cannot_be_embedded_is_named(tmp_path):
    model = zoo.load("digits")
    (tmp_path / "text.png").write_bytes(b"no picture")
    for name in ("text.png", "missing.png"):
        with pytest.raises(dml.data.DataError, match=name):
            model.embed([tmp_path / name])
    image = np.zeros((8, 8, 1), np.uint8)
    for images, message in (
        ("a.png", "one str"),
        ([3.0], "Received: {'float'}"),
        (image[..., 0], "shape"),
        (image / 2, "uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            model.embed(images)


def test_every_load_is_a_model_of_its_own():
    first, second = zoo.load("digits"), zoo.load("digits")
    first.encoder.set_weights([weight * 0 for weight in first.encoder.get_weights()])
    assert any(np.any(weight) for weight in second.encoder.get_weights())


def test_unknown_name():
    with pytest.raises(ValueError, match=r"Unknown shipped encoder 'digts'. Did you mean 'digits'\?"):
        zoo.load("digts")
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = zoo.laod


def test_a_changed_or_missing_file_is_refused(weights):
    file = weights / "digits.keras"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    expected = json.loads((weights / "index.json").read_text())["digits"]["sha256"]
    with pytest.raises(ValueError, match=f"digits.keras.*sha256 {expected}. Found: [0-9a-f]*. Install"):
        zoo.load("digits")
    file.unlink()
    with pytest.raises(ValueError, match="Found: no such file"):
        zoo.load("digits")


def test_ship_adds_a_run_and_replaces_it(weights, run, capsys):
    before = json.loads((weights / "index.json").read_text())
    for recall in (0.75, 0.5):
        change(run / "metrics.json", lambda metrics, recall=recall: metrics["last"].update({"recall@1": recall}))
        assert pretrained.main([str(run), "--name", "mine"]) == 0
        assert str(weights / "mine.keras") in capsys.readouterr().out
        model = zoo.load("mine")
        assert model.metrics == {"recall@1": recall}
        assert model.config == open_run(run).config
    assert json.loads((weights / "index.json").read_text()).keys() == {*before, "mine"}
    assert {path.name for path in weights.iterdir()} == {
        "index.json",
        "mine.keras",
        *(f"{name}.keras" for name in before),
    }


def test_ship_takes_the_shipped_run_of_an_experiment(weights, run):
    (run.parent / "experiment.json").write_text(json.dumps({"format": 1, "runs": ["run"], "exported": "run"}))
    assert pretrained.ship(run.parent, "mine") == weights / "mine.keras"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "imagenet"}, "trained from scratch.*weights='imagenet'"),
        ({"weights": "some/file.h5"}, "trained from scratch.*weights='some/file.h5'"),
        ({"backbone_options": {"keras_weights": "imagenet"}}, "backbone_options.keras_weights='imagenet'"),
    ],
)
def test_ship_refuses_weights_of_others(weights, run, capsys, changes, message):
    files = sorted(weights.iterdir())
    change(run / "run.json", lambda config: config["recipe"].update(changes))
    with pytest.raises(ValueError, match=message):
        pretrained.ship(run, "mine")
    assert pretrained.main([str(run), "--name", "mine"]) == 1
    assert "error: Only encoders trained from scratch" in capsys.readouterr().err
    assert sorted(weights.iterdir()) == files


@pytest.mark.parametrize(("key", "message"), [("recipe", "weights='unknown'"), ("code", "committed code.*Found: None")])
def test_ship_refuses_a_run_of_unknown_origin(weights, run, key, message):
    change(run / "run.json", lambda config: config.pop(key))
    with pytest.raises(ValueError, match=message):
        pretrained.ship(run, "mine")


CLEAN = {"keras-dml": "0.1.0", "commit": "0" * 40, "modified": False}


@pytest.mark.parametrize(
    "changes",
    [{"modified": True}, {"commit": None}, {"commit": None, "modified": None}, {"modified": None}],
    ids=str,
)
def test_ship_refuses_what_no_commit_trained(weights, run, changes):
    files = sorted(weights.iterdir())
    changed = {**CLEAN, **changes}
    message = f"{run / 'run.json'}.*Found: {changed}. Commit your changes and train again"
    for edit in (
        {"code": changed},
        {"code": changed, "sessions": [{"code": CLEAN}]},
        # The run was begun with committed code, and went on with other.
        {"code": CLEAN, "sessions": [{"code": CLEAN}, {"code": changed}]},
    ):
        change(run / "run.json", lambda config, edit=edit: config.update(edit))
        with pytest.raises(ValueError, match=message):
            pretrained.ship(run, "mine")
    change(run / "run.json", lambda config: config.update(code=CLEAN, sessions=[{"code": CLEAN}, {}]))
    with pytest.raises(ValueError, match=r"Found: None\. Commit"):
        pretrained.ship(run, "mine")
    assert sorted(weights.iterdir()) == files


def test_ship_takes_a_run_of_several_sessions(weights, run):
    later = {**CLEAN, "commit": "1" * 40}
    change(run / "run.json", lambda config: config.update(code=CLEAN, sessions=[{"code": CLEAN}, {"code": later}]))
    assert pretrained.ship(run, "mine") == weights / "mine.keras"


@pytest.mark.parametrize("missing", ["metrics.json", "encoder.keras"])
def test_ship_refuses_unfinished_runs(weights, run, missing):
    (run / missing).unlink()
    with pytest.raises(ValueError, match="has not finished"):
        pretrained.ship(run, "mine")
    assert not (weights / "mine.keras").exists()


def test_ship_refuses_what_does_not_fit(weights, run):
    for name in ("../mine", "Mine", ""):
        with pytest.raises(ValueError, match="small letters"):
            pretrained.ship(run, name)
    change(run / "run.json", lambda config: config["preprocessing"].update(size=7))
    with pytest.raises(ValueError, match=r"does not fit run.json.*\(7, 7, 1\).*\(8, 8, 1\)"):
        pretrained.ship(run, "mine")
    assert not (weights / "mine.keras").exists()


def test_the_package_takes_them_along():
    """setup.py names the folder, or an installed package would be without."""
    assert '"weights/*"' in (pathlib.Path(zoo.__file__).parent.parent / "setup.py").read_text(encoding="utf-8")
