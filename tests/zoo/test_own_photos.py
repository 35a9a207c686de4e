"""The recipe `folder`, on small pictures: frozen features, what held-out classes choose, known classes, its words."""

import os
import pathlib

import numpy as np
import pytest
from tiny_pictures import save

import export
from keras_dml import data
from keras_dml.image_encoder import ImageEncoder
from keras_dml.utils.files import read_json
from zoo import frozen, recipes, reproduce
from zoo.building import build_encoder, preprocessing
from zoo.overrides import override
from zoo.runs import open_run
from zoo.verdict import interval

SMALL = ("backbone=small_conv", "weights=None", "input_size=32", "resize=32", "embedding_dim=8", "epochs=1")
SETTINGS = [part for one in (*SMALL, "steps_per_epoch=4", "seeds=(0,)") for part in ("--set", one)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten classes of six pictures."""
    root = tmp_path_factory.mktemp("photos")
    for label in range(10):
        for number in range(6):
            save(root / f"class {label}" / f"{number}.jpg", 7 * label + number % 2)
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_DML_CACHE", str(tmp_path / "cache"))


def test_from_a_folder_to_an_exported_encoder(photos, tmp_path, capsys):
    folder = tmp_path / "run"
    given = recipes.get("folder").arms
    arms = {arm: dict(given[arm]) for arm in ("random_start", "whitening", "whitening_softmax")}
    arguments = ["folder", "--data-dir", str(photos), "--output", str(folder), *SETTINGS, "--set", f"arms={arms}"]
    arguments += ["--set", "exported=whitening"]
    assert reproduce.main(arguments) == 0
    shown = capsys.readouterr().out
    tuning = read_json(folder / "tuning" / "tuning.json")
    scores = {arm: max(rates.values()) for arm, rates in tuning["arms"].items()}
    assert tuning["exported"] == max(scores, key=scores.get)
    assert f"Chosen on held-out training classes, and exported: {tuning['exported']}." in shown
    assert "On 5 classes that training has not seen (30 photos):" in shown
    assert "On 5 new photos of 5 known classes, searched among the training photos:" in shown
    assert shown.count("the untouched backbone") == 4
    record = read_json(folder / "record.json")
    assert set(record["rivals"]) == {"backbone"}
    assert all({"last", "known"} <= set(arm) for arm in record["arms"].values())
    for arm, rates in tuning["arms"].items():
        rate = record["recipe"]["arms"][arm].get("learning_rate", record["recipe"]["learning_rate"])
        assert rate == float(max(rates, key=rates.get))
    # What is exported is the whole encoder, with the head that was trained on its features.
    run = open_run(folder)
    assert run.config["arm"] == tuning["exported"]
    encoder, test = run.image_encoder(), data.load("folder", photos).test
    np.testing.assert_allclose(encoder.embed(test), run.embeddings().vectors, atol=1e-4)
    found = export.load(folder / "export" / "folder").search(test.image(0), k=1)
    assert found.ids[0][0] == test.ids[0]
    before = {path: path.stat().st_mtime_ns for path in folder.glob("**/seed-*/metrics.json")}
    assert reproduce.main(arguments) == 0
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("**/seed-*/metrics.json")}


def test_features_and_head_are_the_encoder(photos):
    recipe = override(recipes.get("folder"), SMALL).arm("random_start")
    encoder, inputs = build_encoder(recipe), preprocessing(recipe)
    split = data.load("folder", photos).train
    parts = frozen.FrozenEncoder(encoder, inputs, recipe)
    expected = ImageEncoder(encoder, inputs).embed(split)
    np.testing.assert_allclose(parts.embed(split, None)[0], expected, atol=1e-5)
    # The head's layers are the encoder's.
    linear = encoder.get_layer("embedding")
    linear.set_weights([weight + 1 for weight in linear.get_weights()])
    np.testing.assert_allclose(parts.embed(split, None)[0], ImageEncoder(encoder, inputs).embed(split), atol=1e-5)


class Counted:
    """An encoder that notes what it embeds."""

    embedding_dim = 3

    def __init__(self):
        self.embedded = []

    def embed(self, split, batch_size, progress):
        self.embedded += [pathlib.Path(path).name for path in split.paths]
        return np.array([[os.path.getsize(path), 0, 1] for path in split.paths], np.float32)


def test_only_photos_that_have_changed_are_computed_again(tmp_path):
    for number in range(5):
        save(tmp_path / f"{number}.png", number)
    split = data.Split([tmp_path / f"{number}.png" for number in range(5)], [0, 0, 1, 1, 1], ["a", "b"])
    encoder = Counted()
    first = frozen.cached_features("x", encoder, split)
    np.testing.assert_array_equal(frozen.cached_features("x", encoder, split), first)
    assert encoder.embedded == [f"{number}.png" for number in range(5)]
    save(tmp_path / "3.png", 9, width=50)
    changed = frozen.cached_features("x", encoder, split)
    assert encoder.embedded[5:] == ["3.png"]
    assert changed[3, 0] == os.path.getsize(tmp_path / "3.png") != first[3, 0]
    # Another backbone shares nothing with it, and a broken cache is made anew.
    frozen.cached_features("y", encoder, split)
    assert len(encoder.embedded) == 11
    (path,) = (tmp_path / "cache" / "features").glob("x.npz")
    path.write_bytes(path.read_bytes()[:-30])
    np.testing.assert_array_equal(frozen.cached_features("x", encoder, split), changed)
    assert len(encoder.embedded) == 16


def test_known_images_are_held_out_of_every_class_that_can_spare_some():
    labels = np.array([0] * 10 + [1] * 3 + [2] * 2 + [3])
    images = np.arange(16, dtype=np.uint8).reshape(16, 1, 1, 1) * np.ones((1, 4, 4, 1), np.uint8)
    train = data.Split(images, labels, ["a", "b", "c", "d"])
    other = data.Split(images[:2], [0, 0], ["e"], ["x", "y"])
    found = data.Benchmark("own", train, other).with_known(0.2)
    assert np.bincount(found.known.labels, minlength=4).tolist() == [2, 1, 0, 0]
    assert np.bincount(found.train.labels, minlength=4).tolist() == [8, 2, 2, 1]
    assert set(found.known.ids) | set(found.train.ids) == set(train.ids)
    assert found.fingerprint != data.Benchmark("own", train, other).fingerprint
    with pytest.raises(ValueError, match="share=1"):
        found.with_known(1)


def test_interval_against_loops():
    random = np.random.default_rng(1)
    values, groups = random.normal(size=30), np.repeat([3, 5, 9], 10)
    values[4] = np.nan
    mean, low, high = interval(values, groups, seed=2)
    assert mean == pytest.approx(np.nanmean(values))
    drawn = np.random.default_rng(2).integers(0, 3, (2000, 3))
    means = []
    for row in drawn:
        chosen = [value for k in row for value in values[groups == [3, 5, 9][k]] if not np.isnan(value)]
        means.append(sum(chosen) / len(chosen))
    assert (low, high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))))


def test_too_few_classes_are_named(tmp_path, capsys):
    for label in range(4):
        for number in range(3):
            save(tmp_path / "few" / str(label) / f"{number}.png", label + number)
    arguments = ["folder", "--data-dir", str(tmp_path / "few"), "--output", str(tmp_path / "run"), *SETTINGS]
    assert reproduce.main(arguments) != 0
    assert (
        "folder has 2 training classes; a choice on held-out training classes takes at least 4"
        in capsys.readouterr().err
    )
