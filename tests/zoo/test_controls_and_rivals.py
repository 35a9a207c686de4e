"""What stands beside the arms: controls of DAS, and rivals that need no training; and how rates are found."""

import dataclasses
import json

import numpy as np
import pytest

from keras_dml.data import load
from keras_dml.utils.files import read_json
from zoo import controls, recipes, reproduce, rivals, tune
from zoo.held_out import held_out, held_out_fold
from zoo.record import changed_settings

SMALL = ["--epochs", "1", "--set", "lr_milestones=()", "--set", "backbone_options.widths=(4,)"]


@pytest.mark.parametrize(
    "name", ["cub200", "cars196", "sop", "cub200_losses", "cars196_losses", "sop_losses", "cars196_table4_ibn"]
)
def test_every_arm_with_das_has_its_controls(name):
    recipe = recipes.get(name)
    controlled = controls.with_controls(recipe)
    for arm in recipe.arms:
        assert controlled.arms[arm] == recipe.arms[arm]
        settings = recipe.arm(arm)
        if settings.das is None:
            assert arm + controls.COPIES not in controlled.arms
            continue
        copies = controlled.arm(arm + controls.COPIES)
        assert copies.das.scale_range == (1.0, 1.0)
        assert copies.das.shift_scale == 0.0
        assert (copies.das.detach, copies.das.normalize) == (settings.das.detach, settings.das.normalize)
        assert not copies.published
        has_weights = settings.loss in ("multi_similarity", "n_pair", "generalized_lifted_structure") or (
            settings.loss == "spherical_embedding_constraint"
        )
        assert (arm + controls.WEIGHT in controlled.arms) == has_weights
        if has_weights:
            weighted = controlled.arm(arm + controls.WEIGHT)
            assert weighted.das is None
            given = weighted.loss_args.get("loss", weighted.loss_args)
            assert given["negative_weight"] == 1 + settings.das.num_produced
    assert changed_settings(controlled) == []


def test_controls_need_das(capsys):
    assert reproduce.main(["digits_losses", "--controls", "--show"]) == 2
    assert "no arm of 'digits_losses' uses DAS" in capsys.readouterr().err
    assert reproduce.main(["cub200_losses", "--controls", "--show"]) == 0
    assert "multi_similarity_das_weight" in capsys.readouterr().out


def test_raw_pixels_beside_loops(tmp_path, capsys):
    folder = tmp_path / "digits"
    assert (
        reproduce.main(["digits", "--seed", "0", "--set", "select_epoch=False", "--output", str(folder), *SMALL]) == 0
    )
    assert "| raw pixels |" in capsys.readouterr().out
    found = read_json(folder / "record.json")["rivals"]["raw pixels"]
    test = load("digits").test
    pixels = test.images.reshape(len(test), -1).astype(float)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    cosines = pixels @ pixels.T
    np.fill_diagonal(cosines, -np.inf)
    assert found["recall@1"] == pytest.approx(np.mean(test.labels[cosines.argmax(axis=1)] == test.labels), abs=1e-6)
    # It is measured once.
    (folder / "rivals.json").write_text(json.dumps({"raw pixels": {**found, "recall@1": 0.5}}))
    assert (
        reproduce.main(["digits", "--seed", "0", "--set", "select_epoch=False", "--output", str(folder), *SMALL]) == 0
    )
    assert read_json(folder / "record.json")["rivals"]["raw pixels"]["recall@1"] == 0.5


def test_unknown_rivals_and_too_many_pixels(tmp_path, capsys, monkeypatch):
    assert reproduce.main(["digits", "--set", "rivals=('raw_pixel',)", "--output", str(tmp_path / "x"), *SMALL]) != 0
    assert "raw_pixels" in capsys.readouterr().err
    monkeypatch.setattr(rivals, "MOST_VALUES", 1000)
    with pytest.raises(ValueError, match="rivals="):
        rivals.raw_pixels(recipes.get("digits"), load("digits"))


def test_tune_brackets_the_best_rate(tmp_path, monkeypatch, capsys):
    def score(recipe, arm, rate, seed, benchmark, folder, progress):
        return -abs(np.log10(rate) - np.log10(0.158 if arm == "das" else 1.58e-4))

    monkeypatch.setattr(tune, "_score", score)
    assert tune.main(["digits", "--output", str(tmp_path)]) == 0
    found = read_json(tmp_path / "tuning.json")["arms"]
    for arm, best in (("das", 0.158), ("baseline", 1.58e-4)):
        rates = sorted(map(float, found[arm]))
        assert rates[0] < tune.best_rate(found[arm]) < rates[-1]
        assert tune.best_rate(found[arm]) == pytest.approx(best)
    assert "--set arms.baseline.learning_rate=" in capsys.readouterr().out


def test_tune_looks_at_training_classes_only(tmp_path, capsys):
    benchmark = held_out(load("digits"))
    assert benchmark.train.class_names == ("0", "1", "2")
    assert benchmark.test.class_names == ("3", "4")
    arguments = ["digits", *SMALL[2:], "--set", "epochs=1", "--set", "classes_per_batch=3", "--output", str(tmp_path)]
    assert tune.main(arguments) == 0
    found = read_json(tmp_path / "tuning.json")["arms"]
    assert set(found) == {"baseline", "das"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("**/metrics.json")}
    assert len(before) >= 6
    assert tune.main(arguments) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("**/metrics.json")}
    # What is there is not taken for what was asked for.
    capsys.readouterr()
    assert tune.main([*arguments, "--set", "l2_decay=0.1"]) != 0
    message = capsys.readouterr().err
    assert str(tmp_path / "baseline") in message
    assert "differs in: l2_decay" in message
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("**/metrics.json")}


def test_a_choice_on_held_out_classes_takes_four_of_them():
    digits = load("digits")
    few = dataclasses.replace(digits, train=digits.train.subset(np.flatnonzero(digits.train.labels < 3)))
    assert held_out_fold(few.train) is None
    with pytest.raises(ValueError, match=r"digits has 3 training classes.*at least 4"):
        held_out(few)


def test_tune_wants_a_rate_to_start_from(tmp_path, capsys):
    arguments = ["digits", "--set", "arms.das.learning_rate=0.0", "--set", "arms.baseline.learning_rate=0.0"]
    assert tune.main([*arguments, "--output", str(tmp_path)]) != 0
    assert "Arm 'baseline' has no rate to start from" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/"))
