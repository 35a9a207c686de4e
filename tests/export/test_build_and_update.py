"""The command lines: galleries of every kind, resuming, crashes, new versions."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from export_helpers import ROOT, assert_neighbors, clustered

import export
from export import build, embedding, update, versions
from keras_dml import ImageEncoder
from keras_dml.data import ImagePreprocessing
from keras_dml.utils.progress import Progress


@pytest.fixture
def folder(tmp_path):
    """Images in two sub-folders, of several formats and sizes."""
    random = np.random.default_rng(0)
    for name, encode in (
        ("cat/a.png", tf.io.encode_png),
        ("cat/b.jpg", tf.io.encode_jpeg),
        ("dog/c.PNG", tf.io.encode_png),
        ("dog/deep/d.jpeg", tf.io.encode_jpeg),
    ):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = random.integers(20, 200, 2)
        path.write_bytes(encode(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).numpy())
    (tmp_path / "images" / "notes.txt").write_text("no image")
    (tmp_path / "images" / ".hidden").mkdir()
    (tmp_path / "images" / ".hidden" / "e.png").write_bytes(b"no image")
    return tmp_path / "images"


def add_image(folder, name, seed):
    picture = np.random.default_rng(seed).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(tf.io.encode_png(picture).numpy())


def test_folder_then_updates(run_folder, folder, tmp_path, capsys):
    directory = tmp_path / "pets"
    assert build.main([str(run_folder), "--gallery", str(folder), "--output", str(directory)]) == 0
    assert capsys.readouterr().out.strip() == str(directory / "1")
    model = export.load(directory)
    assert model.gallery.ids == ("cat/a.png", "cat/b.jpg", "dog/c.PNG", "dog/deep/d.jpeg")
    assert model.gallery.metadata["label"].tolist() == ["cat", "cat", "dog", "dog"]
    content = (folder / "dog/c.PNG").read_bytes()
    assert model.search(content, 1).ids[0, 0] == "dog/c.PNG"

    add_image(folder, "bird/x.png", 1)
    seen = []
    original = update.embed_split

    def spy(image_encoder, split, *rest):
        seen.extend(split.ids)
        return original(image_encoder, split, *rest)

    update.embed_split = spy
    try:
        assert update.main([str(directory), "--add", str(folder), "--remove", "cat/b.jpg", "--keep", "2"]) == 0
    finally:
        update.embed_split = original
    # What is removed and offered again counts as new; what is there already is not embedded again.
    assert seen == ["bird/x.png", "cat/b.jpg"]
    second = export.load(directory, verify=True)
    assert second.version == 2
    assert set(second.gallery.ids) == {*model.gallery.ids, "bird/x.png"}
    found = second.search((folder / "bird/x.png").read_bytes(), 1)
    assert (found.ids[0, 0], found.labels[0, 0]) == ("bird/x.png", "bird")
    old = dict(zip(model.gallery.ids, model.gallery.embeddings, strict=True))
    for name, row in zip(second.gallery.ids, second.gallery.embeddings, strict=True):
        if name in old:
            np.testing.assert_allclose(row, old[name], atol=1e-6)

    gone = tmp_path / "gone.txt"
    gone.write_text("dog/c.PNG\n\nbird/x.png\n")
    assert update.main([str(directory), "--remove-file", str(gone), "--keep", "2"]) == 0
    assert versions.versions(directory) == [2, 3]
    third = export.load(directory)
    assert set(third.gallery.ids) == {"cat/a.png", "cat/b.jpg", "dog/deep/d.jpeg"}
    assert third.manifest["source"]["updated_from"] == 2
    assert {path.name for path in directory.iterdir()} == {"2", "3", ".newest"}

    assert update.main([str(directory), "--remove", "nobody"]) == 1
    assert "first 'nobody'" in capsys.readouterr().err
    assert update.main([str(directory), "--remove", "cat/a.png", "--recall", "0"]) == 1
    assert "`recall` must lie in" in capsys.readouterr().err
    assert update.main([str(directory)]) == 2
    assert "Nothing to do" in capsys.readouterr().err
    assert versions.versions(directory) == [2, 3]


def test_replace_embeds_anew(run_folder, folder, tmp_path):
    directory = tmp_path / "pets"
    build.main([str(run_folder), "--gallery", str(folder), "--output", str(directory)])
    before = export.load(directory).gallery
    add_image(folder, "cat/a.png", 7)
    update.main([str(directory), "--add", str(folder), "--replace"])
    after = export.load(directory).gallery
    assert sorted(after.ids) == sorted(before.ids)
    row, old_row = after.ids.index("cat/a.png"), before.ids.index("cat/a.png")
    assert np.abs(after.embeddings[row] - before.embeddings[old_row]).max() > 1e-3


def test_npz_with_columns_then_update(run_folder, tmp_path, capsys):
    rows = clustered(50, 24)
    names = np.array([f"item {row}" for row in range(50)])
    np.savez(tmp_path / "g.npz", embeddings=rows[:40], ids=names[:40], price=np.arange(40), shop=names[:40])
    np.savez(tmp_path / "more.npz", embeddings=rows[40:], ids=names[40:], price=np.arange(40, 50), shop=names[40:])
    np.savez(tmp_path / "other.npz", embeddings=rows[40:], ids=names[40:])
    directory = tmp_path / "shop"
    command = [str(run_folder), "--gallery", str(tmp_path / "g.npz"), "--output", str(directory)]
    assert build.main([*command, "--kind", "tree", "--leaves", "5", "--recall", "0.9", "--k", "3"]) == 0
    model = export.load(directory)
    assert model.manifest["index"]["kind"] == "tree"
    assert model.manifest["recall"]["recall"] >= 0.9
    result = model.search_embeddings(rows[:4])
    assert result.ids.shape == (4, 3)
    assert (result.metadata["price"] == result.indices).all()
    assert (result.metadata["shop"] == result.ids).all()

    assert update.main([str(directory), "--add", str(tmp_path / "other.npz")]) == 1
    assert "metadata columns" in capsys.readouterr().err
    assert update.main([str(directory), "--add", str(tmp_path / "more.npz"), "--remove", "item 0"]) == 0
    second = export.load(directory)
    assert second.manifest["index"]["leaves"] == 5
    assert second.default_k == 3
    assert second.gallery.ids == tuple(names[1:])
    exact = export.load(directory, exact=True).search_embeddings(rows[:6], 10)
    assert_neighbors(exact, rows[:6], rows[1:], 10)


class Stop(Exception):
    pass


def test_embedding_goes_on_where_it_stopped(run_folder, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "SHARD_IMAGES", 128)
    encoder = keras.models.load_model(run_folder / "encoder.keras")
    preprocessing = ImagePreprocessing(16, channels=1)
    image_encoder = ImageEncoder(encoder, preprocessing)
    whole = embedding.embed_split(image_encoder, digits)

    class StopAt400(Progress):
        def advance(self, stage, done, total):
            if done >= 400:
                raise Stop

    with pytest.raises(Stop):
        embedding.embed_split(image_encoder, digits, tmp_path / "cache", 64, StopAt400())
    steps = []
    progress = Progress()
    progress.advance = lambda stage, done, total: steps.append(done)
    again = embedding.embed_split(image_encoder, digits, tmp_path / "cache", 64, progress)
    assert steps[0] == 384
    np.testing.assert_allclose(again, whole, atol=1e-6)
    other = digits.subset(range(100))
    key = embedding.cache_key(run_folder / "encoder.keras", preprocessing, digits)
    assert key == embedding.cache_key(run_folder / "encoder.keras", preprocessing, digits)
    assert key != embedding.cache_key(run_folder / "encoder.keras", preprocessing, other)
    assert key != embedding.cache_key(run_folder / "encoder.keras", ImagePreprocessing(16, 20, 1), digits)


def test_killed_build_leaves_no_version(run_folder, tmp_path):
    """SIGKILL while the version is being written: nothing that could be taken for one, and the next build works."""
    directory = tmp_path / "digits"
    command = ["-m", "export.build", str(run_folder), "--gallery", "digits", "--output", str(directory)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(directory.glob(".writing-*/*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert list(directory.glob(".writing-*/*")), "it was not killed while it wrote"
    assert versions.versions(directory) == []
    assert not [path for path in directory.iterdir() if not path.name.startswith(".")]
    with pytest.raises(FileNotFoundError, match="neither"):
        export.load(directory)
    # The shards of the killed build are still there, so the images are not embedded again.
    assert list(directory.glob(".embedding-*/*.npy"))
    export.build_model(directory, export.Gallery(clustered(5, 4), tuple("abcde")))
    assert versions.versions(directory) == [1]


def refuse(*_):
    raise PermissionError(errno.EACCES, "no permission")


def test_versions_are_published_whole_and_in_order(tmp_path, monkeypatch):
    directory = tmp_path / "model"
    for number in (1, 2):
        with versions.partial_version(directory) as partial:
            (partial / "manifest.json").write_text("{}")
            versions.publish(partial, directory, number)
    with versions.partial_version(directory) as partial, pytest.raises(FileExistsError, match="2 exists"):
        versions.publish(partial, directory, 2)
    with monkeypatch.context() as patch, versions.partial_version(directory) as partial:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(PermissionError, match="no permission"):
            versions.publish(partial, directory, 3)
    (directory / "7").mkdir()
    (directory / "007").mkdir()
    assert versions.versions(directory) == [1, 2]
    assert versions.next_version(directory) == 8
    assert versions.prune(directory, 1) == [1]
    assert versions.versions(directory) == [2]
    with pytest.raises(ValueError, match="at least 1"):
        versions.prune(directory, 0)
    old = directory / ".writing-left-over"
    old.mkdir()
    os.utime(old, (0, 0))
    with versions.partial_version(directory):
        assert not old.exists()


def test_bad_images_are_named(run_folder, folder, tmp_path, capsys):
    (folder / "cat" / "broken.png").write_bytes(b"no image")
    command = [str(run_folder), "--gallery", str(folder), "--output", str(tmp_path / "m")]
    assert build.main(command) == 1
    assert "cat/broken.png: not a JPEG" in capsys.readouterr().err
    whole = tf.io.encode_png(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).numpy()
    (folder / "dog" / "cut.png").write_bytes(whole[:800])
    assert build.main([*command, "--skip-unreadable"]) == 1
    assert "dog/cut.png" in capsys.readouterr().err
    (folder / "dog" / "cut.png").unlink()
    assert build.main([*command, "--skip-unreadable"]) == 0
    assert len(export.load(tmp_path / "m")) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--gallery", "digitz"], "none of them"),
        (["RUN", "--gallery", "digits:middle"], "train, test or gallery"),
        (["RUN", "--gallery", "missing.npz"], "no file missing.npz"),
        (["RUN", "--gallery", "digits", "--recall", "2"], "`recall` must lie in"),
        (["RUN", "--gallery", "digits", "--rerank", "5"], "no pair_scorer.keras"),
        (["nowhere", "--gallery", "digits"], "no folder nowhere"),
    ],
)
def test_command_line_errors(run_folder, tmp_path, capsys, arguments, message):
    # Re-ranking without a unit to re-rank with is a wrong call.
    status = 2 if "--rerank" in arguments else 1
    arguments = [str(run_folder) if argument == "RUN" else argument for argument in arguments]
    assert build.main([*arguments, "--output", str(tmp_path / "m")]) == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not versions.versions(tmp_path / "m")


@pytest.mark.parametrize("option", ["--k", "--keep", "--batch-size", "--rerank"])
def test_counts_are_at_least_1(option, capsys):
    with pytest.raises(SystemExit) as ended:
        build.main(["run", "--gallery", "digits", option, "0"])
    assert ended.value.code == 2
    assert f"argument {option}: must be at least 1, not 0" in capsys.readouterr().err


def test_an_experiment_means_its_exported_run(run_folder, tmp_path):
    experiment = tmp_path / "experiment"
    (experiment / "das").mkdir(parents=True)
    os.symlink(run_folder, experiment / "das" / "seed-0")
    content = {"format": 1, "name": "x", "runs": ["das/seed-0"], "exported": "das/seed-0"}
    (experiment / "experiment.json").write_text(json.dumps(content))
    from zoo.runs import open_run

    assert open_run(experiment).name == "tiny"
    assert open_run(experiment).folder == pathlib.Path(experiment / "das/seed-0")


def test_reranking_with_a_pddm_unit(tmp_path):
    from keras_dml.layers import PDDMUnit

    keras.utils.set_random_seed(3)
    unit = PDDMUnit()
    rows = clustered(200, 12, clusters=10)
    labels = (rows @ clustered(4, 12, seed=9).T).argmax(axis=1)
    unit([rows[:2], rows[:2]])
    names = [str(row) for row in range(200)]
    gallery = export.Gallery(rows, names, {"label": [f"class {label}" for label in labels]})
    version = export.build_model(tmp_path / "m", gallery, options=export.BuildOptions(pair_scorer=unit, shortlist=20))
    effect = json.loads((version / "manifest.json").read_text())["reranking"]
    assert effect["shortlist"] == 20
    assert effect["with"]["p50_ms"] > 0
    nearest = (rows @ rows.T - 2 * np.eye(200)).argmax(axis=1)
    assert effect["without"]["recall@1"] == pytest.approx(np.mean(labels[nearest] == labels), abs=1e-4)
    queries = clustered(6, 12, seed=4, clusters=10)

    def check(model, rows):
        result = model.search_embeddings(queries, 5)
        for query, found, scores in zip(queries, result.indices, result.scores, strict=True):
            near = np.argsort(-(rows @ query), kind="stable")[:20]
            wanted = np.asarray(unit([np.repeat(query[None], 20, 0), rows[near]]))
            order = np.argsort(-wanted, kind="stable")[:5]
            np.testing.assert_allclose(scores, wanted[order], atol=1e-4)
            assert set(found) <= set(near)

    for exact in (False, True):
        check(export.load(version, exact=exact), rows)
    # Updating keeps the unit.
    second = export.update_model(tmp_path / "m", remove=["7"])
    check(export.load(second), np.delete(rows, 7, axis=0))
    assert json.loads((second / "manifest.json").read_text())["reranking"]["shortlist"] == 20
