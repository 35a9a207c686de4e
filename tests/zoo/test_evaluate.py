import json
import re

import numpy as np
import pytest
import tiny_datasets
from tiny_pictures import photograph

from keras_dml.evaluation import RetrievalOptions, evaluate_retrieval
from zoo import evaluate


def save(path, seed=0, n=40, classes=5, **extra):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centers = np.random.default_rng(99).standard_normal((classes, 6))
    vectors = (centers[labels] + rng.standard_normal((n, 6))).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, embeddings=vectors, labels=labels.astype(np.int32), **extra)
    return vectors, labels


def run_folder(folder, seed=0, **recipe):
    vectors, labels = save(folder / "test_embeddings.npz", seed)
    config = {"format": 1, "name": "toy", "arm": "das", "seed": seed, "recipe": recipe}
    (folder / "run.json").write_text(json.dumps(config))
    return vectors, labels


def test_embeddings_file(tmp_path, capsys):
    vectors, labels = save(tmp_path / "x.npz")
    assert evaluate.main([str(tmp_path / "x.npz"), "--ks", "1,3"]) == 0
    shown = capsys.readouterr().out
    written = json.loads((tmp_path / "x.evaluation.json").read_text())
    expected = evaluate_retrieval(vectors, labels, ks=(1, 3)).to_dict(clustering=True, geometry=True)
    assert written["metrics"] == pytest.approx(expected)
    assert written["queries"] == written["gallery"] == 40
    assert written["source"] == {"file": "x.npz"}
    low, high = written["confidence_95"]["map@r"]
    assert low < expected["map@r"] < high
    assert f"| {expected['map@r']:.4f} |" in shown
    assert "Recall@3" in shown
    assert str(tmp_path / "x.evaluation.json") in shown


def test_gallery_and_options(tmp_path, capsys):
    vectors, labels = save(tmp_path / "q.npz", ids=np.array([f"i{k}" for k in range(40)]))
    others, other_labels = save(tmp_path / "g.npz", 1, 30, ids=np.array([f"i{k}" for k in range(20, 50)]))
    command = [str(tmp_path / "q.npz"), "--gallery", str(tmp_path / "g.npz"), "--output", str(tmp_path / "o.json")]
    assert evaluate.main([*command, "--metric", "euclidean", "--no-clustering"]) == 0
    written = json.loads((tmp_path / "o.json").read_text())
    ids, gallery_ids = range(40), range(20, 50)
    expected = evaluate_retrieval(
        vectors, labels, others, other_labels, ids=list(ids), gallery_ids=list(gallery_ids), metric="euclidean"
    )
    assert written["metrics"]["map@r"] == pytest.approx(expected.map_at_r)
    assert "nmi" not in written["metrics"]
    assert written["source"] == {"file": "q.npz", "gallery": "g.npz"}
    capsys.readouterr()


def test_run_and_experiment_folder(tmp_path, capsys):
    run_folder(tmp_path / "das" / "seed-0", 0, ks=[1, 5])
    run_folder(tmp_path / "das" / "seed-1", 1, ks=[1, 5])
    experiment = {"format": 1, "runs": ["das/seed-0", "das/seed-1"], "exported": "das/seed-1"}
    (tmp_path / "experiment.json").write_text(json.dumps(experiment))
    assert evaluate.main([str(tmp_path)]) == 0
    assert "Recall@5" in capsys.readouterr().out
    source = json.loads((tmp_path / "das" / "seed-1" / "evaluation.json").read_text())["source"]
    assert (source["name"], source["arm"], source["seed"]) == ("toy", "das", 1)
    assert not (tmp_path / "das" / "seed-0" / "evaluation.json").exists()


def test_encoder_without_training(tmp_path, capsys):
    import keras

    from keras_dml import data

    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Rescaling(1 / 255), keras.layers.Dense(6)]
    )
    encoder.save(tmp_path / "encoder.keras")
    assert evaluate.main([str(tmp_path / "encoder.keras"), "--benchmark", "digits", "--no-clustering"]) == 0
    written = json.loads((tmp_path / "encoder.digits.evaluation.json").read_text())
    test = data.load("digits").test
    vectors = encoder.predict(np.stack(list(test)).astype(np.float32), verbose=0)
    # Its embeddings have no unit length.
    expected = evaluate_retrieval(vectors, test.labels, options=RetrievalOptions(metric="euclidean"))
    assert written["metrics"]["recall@1"] == pytest.approx(expected.recall[1], abs=0.01)
    assert written["metrics"]["map@r"] == pytest.approx(expected.map_at_r, abs=0.01)
    capsys.readouterr()


def save_encoder(path, shape):
    import keras

    keras.Sequential([keras.Input(shape), keras.layers.Flatten()]).save(path)


def test_encoder_on_data_that_are_not_the_protocols(tmp_path, capsys):
    tiny_datasets.cub200(tmp_path / "data")
    save_encoder(tmp_path / "encoder.keras", (8, 8, 3))
    command = [str(tmp_path / "encoder.keras"), "--benchmark", "cub200", "--data-dir", str(tmp_path / "data")]
    assert evaluate.main(command) == 1
    assert "--subset (on the command line)" in capsys.readouterr().err
    assert evaluate.main([*command, "--subset"]) == 0
    written = json.loads((tmp_path / "encoder.cub200.evaluation.json").read_text())
    assert written["queries"] == 8
    assert written["source"]["file"] == "encoder.keras"
    assert written["source"]["benchmark"] == "cub200"
    assert written["source"]["data"]["subset"] is True


def test_encoder_on_images_that_cannot_be_read(tmp_path, capsys):
    for label in range(4):
        for number in range(3):
            path = tmp_path / "data" / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph(number).save(path)
    path.write_bytes(b"no image")
    save_encoder(tmp_path / "encoder.keras", (8, 8, 3))
    command = [str(tmp_path / "encoder.keras"), "--benchmark", "folder", "--data-dir", str(tmp_path / "data")]
    assert evaluate.main(command) == 1
    error = capsys.readouterr().err
    assert "class3/2.png" in error
    assert error.count("\n") == 1
    with pytest.warns(UserWarning, match="left out 1 image"):
        assert evaluate.main([*command, "--bad-images", "skip"]) == 0
    assert json.loads((tmp_path / "encoder.folder.evaluation.json").read_text())["queries"] == 5


def test_singletons_are_reported(tmp_path, capsys):
    np.savez(tmp_path / "s.npz", embeddings=np.eye(4, dtype=np.float32), labels=[0, 0, 1, 2])
    assert evaluate.main([str(tmp_path / "s.npz")]) == 0
    written = json.loads((tmp_path / "s.evaluation.json").read_text())
    assert written["singletons"] == 2
    assert "2 queries have no other item of their class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arrays", "options", "status", "message"),
    [
        ({"labels": np.arange(4)}, (), 1, "No query has another item of its class"),
        ({"ids": np.array(["a"] * 4)}, (), 1, "x.npz: ids must be unique, as .* Received twice: 'a'"),
        ({"ids": np.array(["a", "b"])}, (), 1, "x.npz: its arrays must be equally long"),
        ({"class_names": np.array(["one"])}, (), 1, "x.npz: with class_names, labels must number them, from 0 to 0"),
        ({"labels": np.zeros((4, 2), int)}, (), 1, "x.npz: the array labels must be .n,. whole numbers or text"),
        ({"embeddings": np.zeros((4, 2))}, (), 1, "All 4 query embeddings are zero"),
        ({"embeddings": np.zeros((4, 0))}, (), 1, "x.npz holds no embeddings"),
        ({"labels": np.array([None] * 4)}, (), 1, "x.npz: the array labels holds Python objects, which are never read"),
        ({}, ("--clusters", "500"), 2, "--clusters 500 are more than the 4 items"),
        ({}, ("--clusters", "0"), 2, "must be at least 1, not 0"),
        ({}, ("--batch-size", "0"), 2, "must be at least 1, not 0"),
        ({}, ("--ks", "1,0"), 2, "must be at least 1, not 0"),
        ({}, ("--output", "x.npz/e.json"), 2, "cannot be written: .*x.npz is a file, not a folder"),
    ],
)
def test_what_measures_nothing_is_refused(tmp_path, capsys, monkeypatch, arrays, options, status, message):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", **{"embeddings": np.eye(4), "labels": [0, 0, 1, 1], **arrays})
    try:
        found = evaluate.main(["x.npz", *options])
    except SystemExit as error:
        found = error.code
    captured = capsys.readouterr()
    assert found == status
    assert re.search(message, captured.err)
    assert not list(tmp_path.glob("*.json"))


def test_some_zero_vectors_are_a_warning(tmp_path):
    vectors = np.eye(4)
    vectors[0] = 0
    np.savez(tmp_path / "x.npz", embeddings=vectors, labels=[0, 0, 1, 1])
    with pytest.warns(UserWarning, match="1 of 4 query embeddings are zero and have no direction"):
        assert evaluate.main([str(tmp_path / "x.npz")]) == 0


def test_a_text_file_named_npz_is_no_reason_to_allow_pickles(tmp_path, capsys):
    (tmp_path / "x.npz").write_text("embeddings labels")
    assert evaluate.main([str(tmp_path / "x.npz")]) == 1
    error = capsys.readouterr().err
    assert "x.npz is no .npz file, or not a whole one" in error
    assert "np.savez" in error
    assert "pickle" not in error


@pytest.mark.parametrize("file", ["run.json", "experiment.json", "history.json", "metrics.json"])
@pytest.mark.parametrize("content", ["{}", "[]", "", "nul", "[" * 100_000, '{"format": 1, "recipe": []}', "\udcff"])
def test_damaged_json_of_a_run_is_named(tmp_path, file, content):
    from zoo.runs import open_run

    run_folder(tmp_path)
    if file == "experiment.json":
        (tmp_path / "run.json").unlink()
    (tmp_path / file).write_bytes(content.encode(errors="surrogateescape"))
    if (content.startswith("{") and file == "metrics.json") or (content == "{}" and file == "history.json"):
        open_run(tmp_path)
        return
    with pytest.raises(ValueError, match=file.replace(".", r"\.")):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.npz", "There is no file"),
        ("missing", "There is no folder"),
        ("bad.npz", "bad.npz lacks the array labels; it holds: embeddings"),
        ("nan.npz", "1 of 2 rows: 1"),
        ("encoder.keras", "--benchmark NAME"),
        ("empty", "neither run.json nor experiment.json"),
        ("future", "has format 9"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, name, message):
    np.savez(tmp_path / "bad.npz", embeddings=np.eye(2))
    np.savez(tmp_path / "nan.npz", embeddings=np.array([[1.0, 0], [np.nan, 0]]), labels=[0, 0])
    (tmp_path / "empty").mkdir()
    (tmp_path / "future").mkdir()
    (tmp_path / "future" / "run.json").write_text('{"format": 9}')
    # An encoder without images is a wrong call.
    assert evaluate.main([str(tmp_path / name)]) == (2 if name == "encoder.keras" else 1)
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
