"""The command as users run it, on a recipe made small."""

import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import sys

import keras
import numpy as np
import pytest

from keras_dml.data import load
from keras_dml.evaluation import clustering, evaluate_retrieval
from zoo import building, recipes, reproduce, training
from zoo.experiment import Experiment
from zoo.overrides import override
from zoo.recipe import DAS, Recipe
from zoo.record import changed_settings, protocol_table
from zoo.runs import RunFolder, provenance
from zoo.runs.checkpoint import Checkpoints, State
from zoo.tables import metrics_table

SMALL = ["--epochs", "2", "--seed", "3", "--set", "lr_milestones=()", "--set", "backbone_options.widths=(4, 8)"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert reproduce.main(["digits", "--output", str(folder), *SMALL]) == 0
    return folder


def read(path):
    return json.loads(pathlib.Path(path).read_text())


def test_run_folder_holds_everything(finished):
    for arm in ("baseline", "das"):
        run = finished / arm / "seed-3"
        config = read(run / "run.json")
        assert (config["arm"], config["seed"], config["benchmark"]) == (arm, 3, "digits")
        assert config["preprocessing"] == {"size": 8, "resize": 8, "channels": 1}
        assert (config["recipe"]["das"] is None) == (arm == "baseline")
        history = read(run / "history.json")
        assert {len(values) for values in history.values()} == {2}
        assert not list(run.glob("*.weights.h5"))
        assert not (run / "progress.json").exists()
    assert (finished / "das" / "seed-3" / "das_state.npz").exists()
    for picture in ("learning_curve.png", "neighbours.png", "query.png"):
        assert (finished / picture).read_bytes().startswith(b"\x89PNG")


def test_metrics_are_those_of_the_saved_encoder(finished):
    run = finished / "das" / "seed-3"
    test = load("digits").test
    encoder = keras.models.load_model(run / "encoder.keras")
    embeddings = encoder.predict(test.images.astype("float32"), verbose=0)
    saved = np.load(run / "test_embeddings.npz")
    np.testing.assert_allclose(saved["embeddings"], embeddings, atol=1e-5)
    np.testing.assert_array_equal(saved["labels"], test.labels)
    result = evaluate_retrieval(embeddings, test.labels)
    last = read(run / "metrics.json")["last"]
    assert last["recall@1"] == pytest.approx(result.recall[1], abs=2e-3)
    assert last["map@r"] == pytest.approx(result.map_at_r, abs=1e-3)


def test_table_has_every_arm_and_the_untrained_network(finished):
    table = (finished / "table.md").read_text()
    rows = [line.split("|")[1].strip() for line in table.split("\n\n")[0].splitlines()[2:]]
    assert rows == ["raw pixels", "untrained", "baseline", "das"]
    for column in ("Recall@1", "Recall@2", "Recall@4", "Recall@8", "MAP@R", "NMI", "F1"):
        assert column in table.splitlines()[0]


def test_record_says_what_was_run_and_what_each_way_to_choose_the_epoch_gives(finished):
    record = read(finished / "record.json")
    assert (record["name"], record["seeds"], record["data"]["subset"]) == ("digits", [3], False)
    assert record["data"]["fingerprint"] == load("digits").fingerprint
    assert record["data"]["train"] == {"images": 901, "classes": 5}
    assert record["recipe"]["epochs"] == 2
    assert record["changed_settings"] == ["epochs", "backbone_options", "lr_milestones"]
    assert {"python", "tensorflow", "keras", "scann"} <= set(record["versions"][0])
    assert set(record["code"][0]) == {"keras-dml", "commit", "modified"}
    for arm, values in record["arms"].items():
        history = read(finished / arm / "seed-3" / "history.json")
        assert values["last"]["recall@1"] == [read(finished / arm / "seed-3" / "metrics.json")["last"]["recall@1"]]
        assert values["best_test"]["recall@1"] == [max(history["val_recall@1"])]
        assert history["val_recall@1"][values["best_test"]["epoch"][0] - 1] == max(history["val_recall@1"])
        selection = finished / arm / "selection"
        assert read(selection / "run.json")["held_out_classes"] == [3, 4]
        chosen = int(np.argmax(read(selection / "history.json")["val_map@r"]))
        assert values["selected"]["epoch"] == chosen + 1
        assert values["selected"]["map@r"] == [history["val_map@r"][chosen]]
        assert values["seconds"][0] > 0
    table = (finished / "table.md").read_text()
    assert "paper protocol" in table
    assert f"{100 * record['arms']['das']['selected']['recall@1'][0]:.2f}" in table


def test_record_names_the_code_of_the_runs_that_chose_the_epoch_too(finished, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(finished, folder)
    path = folder / "das" / "selection" / "run.json"
    config = read(path)
    config["sessions"][0]["code"]["commit"] = "another"
    path.write_text(json.dumps(config))
    before = read(folder / "record.json")["code"]
    assert reproduce.main(["digits", "--output", str(folder), *SMALL]) == 0
    assert read(folder / "record.json")["code"] == [*before, {**before[0], "commit": "another"}]


def test_records_name_weights_by_content(tmp_path):
    path = tmp_path / "secret-place" / "weights.h5"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    shown = provenance.weights_identity(str(path))
    assert shown == {"file": "weights.h5", "sha256": hashlib.sha256(b"weights").hexdigest()}


def test_changed_settings_are_told_from_a_choice_of_weights_file():
    recipe = recipes.get("cub200")
    assert changed_settings(recipe) == []
    assert changed_settings(dataclasses.replace(recipe, weights="file.h5", seeds=(7,))) == []
    assert changed_settings(dataclasses.replace(recipe, weights=None, epochs=3)) == ["epochs", "weights"]
    assert changed_settings(dataclasses.replace(recipe, name="mine", epochs=3)) == []


def test_a_run_names_every_code_that_worked_on_it(tmp_path, monkeypatch):
    benchmark = load("digits")
    monkeypatch.setattr(provenance, "code_version", lambda: {"commit": "one"})
    with pytest.raises(Stopped):
        training.train(small_recipe(), "das", 5, benchmark, tmp_path, Stop())
    monkeypatch.setattr(provenance, "code_version", lambda: {"commit": "two"})
    training.train(small_recipe(), "das", 5, benchmark, tmp_path)
    config = read(tmp_path / "run.json")
    assert [session["code"]["commit"] for session in config["sessions"]] == ["one", "two"]
    assert config["code"] == {"commit": "one"}


def test_published_figures_stand_beside_ours():
    row = {"recall@1": [0.5, 0.7], "map@r": [0.1, 0.1]}
    arms = {
        "a": {"published": {"metrics": {"recall@1": 66.46}}, "last": row, "best_test": row, "selected": row},
        "b": {"published": None, "last": row, "best_test": row},
    }
    record = {"arms": arms, "data": {"subset": False}, "changed_settings": []}
    first, second = protocol_table(record).splitlines()[2:]
    assert [cell.strip() for cell in first.split("|")[1:-1]] == ["a", *["60.00 ± 14.14"] * 3, "66.46"]
    assert [cell.strip() for cell in second.split("|")[1:-1]] == ["b", "60.00 ± 14.14", "-", "60.00 ± 14.14", "-"]
    assert "66.46" not in protocol_table({**record, "data": {"subset": True}})
    assert "published, with other epochs" in protocol_table({**record, "changed_settings": ["epochs"]})
    ours = {**record, "arms": {"b": arms["b"]}, "changed_settings": ["epochs"]}
    assert "published" not in protocol_table(ours)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "-1"], "Received: seed=-1"),
        (["--seed", "4", "--seed", "4"], "different numbers.*4, 4"),
        (["--set", "loss=multi_similarty"], "Did you mean"),
        (["--set", "optimizer=adm"], "Did you mean 'adam'"),
        (["--set", "loss_args.alfa=1"], "'alfa'. Did you mean 'alpha'"),
        (["--set", "loss=multi_similarity", "--set", "loss_args.alfa=1"], "Did you mean 'alpha'"),
        (["--set", "augment_args.degres=3"], "Did you mean"),
        (["--set", "optimizer_args.epsilonn=3"], "Did you mean 'epsilon'"),
        (["--set", "classes_per_batch=0"], "classes_per_batch=0"),
        (["--set", "backbone=smal_conv"], "'smal_conv'. Did you mean 'small_conv'"),
        (["--set", "backbone_options.widhts=(4,)"], "Arm 'baseline': .*small_conv 'widhts'. Did you mean 'widths'"),
        (["--set", "backbone=MobileNet", "--set", "backbone_options.alfa=1"], "'alfa'. Did you mean 'alpha'"),
        (["--set", "backbone=MobileNet", "--set", "backbone_options.weights=None"], "MobileNet 'weights'"),
        (["--set", "pooling=average"], "Unknown pooling 'average'"),
        (
            ["--set", "loss=cross_batch_memory", "--set", "loss_args={'loss': {'margin': .2}, 'memory_size': 9}"],
            "`loss` of cross_batch_memory is a name, or a dict of `name`.*Received: {'margin': 0.2}",
        ),
        (["--set", "das.num_produced=-1"], "Arm 'das': `num_produced` must be .* Received: num_produced=-1"),
        (["--set", "pddm.dropout=1.5"], "`dropout` must be in .* Received: dropout=1.5"),
        (["--set", "lr_milestones=(5, 4)"], "ascending order.*lr_milestones=\\(5, 4\\)"),
        (["--set", "lr_milestones=(0,)"], "ascending order, from 1"),
        (["--set", "learning_rate=-1"], "learning_rate=-1"),
        (["--set", "l2_decay=-1"], "l2_decay=-1"),
        (["--set", "steps_per_epoch=0"], "steps_per_epoch=0"),
        (["--set", "loss=double_header_hinge"], "learned similarity.*Add --set pddm.units=None"),
        (
            ["--set", "loss=n_pair", "--set", "normalize=False"],
            "normalize=False, das.normalize=True. Add --set das.normalize=False",
        ),
    ],
)
def test_wrong_settings_are_errors_before_anything_is_written(tmp_path, capsys, options, message):
    folder = tmp_path / "run"
    assert reproduce.main(["digits", "--output", str(folder), *options]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not folder.exists()


def test_a_missing_weights_file_is_an_error_before_anything_is_written(tmp_path, capsys):
    folder = tmp_path / "run"
    assert reproduce.main(["digits", "--output", str(folder), "--weights", "nowhere.h5"]) == 1
    assert "no weights file nowhere.h5" in capsys.readouterr().err
    assert not folder.exists()


def test_weights_that_cannot_be_downloaded_are_an_error_that_says_what_to_do(tmp_path, capsys, monkeypatch):
    def network(**options):
        raise Exception("URL fetch failure on https://storage.googleapis.com/weights.h5")

    monkeypatch.setattr(keras.applications, "MobileNetV2", network)
    settings = ("backbone=mobilenet_v2", "channels=3", "input_size=32")
    options = [text for setting in settings for text in ("--set", setting)]
    assert reproduce.main(["digits", "--output", str(tmp_path), "--weights", "imagenet", *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: Keras could not download the ImageNet weights of mobilenet_v2: URL fetch failure")
    assert "pass weights=FILE" in error
    assert "--weights FILE" in error


def test_a_backbone_whose_package_is_missing_is_an_error_that_names_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    options = ["--set", "backbone=keras_hub:dinov2_base", "--set", "backbone_options={}"]
    assert reproduce.main(["digits", "--output", str(tmp_path), *options]) == 1
    assert 'pip install "keras-dml[models]"' in capsys.readouterr().err


def test_mean_and_sample_deviation():
    table = metrics_table({"a": {"recall@1": [0.1, 0.2, 0.6]}})
    assert "0.3000 ± 0.2646" in table


def test_export_answers_like_the_evaluator(finished):
    import export

    model = export.load(finished / "export" / "digits")
    saved = np.load(finished / "das" / "seed-3" / "test_embeddings.npz")
    found = model.search_embeddings(saved["embeddings"][:20], k=5)
    neighbors = evaluate_retrieval(saved["embeddings"], saved["labels"], ks=(4,)).neighbors
    assert found.ids[:, 0].tolist() == saved["ids"][:20].tolist()
    np.testing.assert_array_equal(found.indices[:, 1:], neighbors[:20, :4])


def test_finished_experiment_is_shown_not_repeated(finished, capsys):
    before = (finished / "das" / "seed-3" / "encoder.keras").stat().st_mtime_ns
    assert reproduce.main(["digits", "--output", str(finished), *SMALL]) == 0
    assert "finished; it is shown, not repeated" in capsys.readouterr().out
    assert (finished / "das" / "seed-3" / "encoder.keras").stat().st_mtime_ns == before


def test_other_settings_do_not_overwrite(finished, capsys):
    assert reproduce.main(["digits", "--output", str(finished), *SMALL, "--set", "learning_rate=0.5"]) == 1
    assert "differ in: learning_rate" in capsys.readouterr().err


def small_recipe(**changes):
    recipe = dataclasses.replace(recipes.get("digits"), epochs=3, backbone_options={"widths": (4,)}, **changes)
    return dataclasses.replace(recipe, das=DAS(top_k=2))


class Stopped(Exception):
    pass


class Stop(training.Watcher):
    """Ends a training after so many epochs."""

    def __init__(self, epochs=1):
        self.epochs = epochs

    def on_epoch(self, epochs, logs):
        if epochs == self.epochs:
            raise Stopped


def test_the_last_numbers_are_those_of_the_saved_embeddings_and_these_are_made_once(tmp_path, monkeypatch):
    made = []

    def embed(*arguments):
        made.append(make(*arguments))
        return made[-1]

    make = training.embed
    monkeypatch.setattr(training, "embed", embed)
    training.train(dataclasses.replace(small_recipe(), epochs=1), "das", 5, load("digits"), tmp_path)
    # Those of the untrained network, and those of the trained one.
    assert len(made) == 2
    with np.load(tmp_path / "test_embeddings.npz") as saved:
        result = evaluate_retrieval(saved["embeddings"], saved["labels"])
    assert read(tmp_path / "metrics.json")["last"] == training.summary(result)


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, stop_after):
    recipe, benchmark = small_recipe(), load("digits")
    training.train(recipe, "das", 5, benchmark, tmp_path / "whole")

    if stop_after:
        with pytest.raises(Stopped):
            training.train(recipe, "das", 5, benchmark, tmp_path / "parts", Stop(stop_after))
        assert not RunFolder(tmp_path / "parts").finished
    training.train(recipe, "das", 5, benchmark, tmp_path / "parts")
    for name in ("test_embeddings.npz", "das_state.npz"):
        whole, parts = np.load(tmp_path / "whole" / name), np.load(tmp_path / "parts" / name)
        for key in whole:
            np.testing.assert_array_equal(whole[key], parts[key], err_msg=key)
    assert read(tmp_path / "whole" / "history.json") == read(tmp_path / "parts" / "history.json")


def test_an_epoch_may_be_a_part_of_a_pass_and_kmeans_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(clustering, "kmeans", None)
    recipe, calls = dataclasses.replace(small_recipe(), epochs=2, steps_per_epoch=3, clustering=False), []

    class Steps(training.Watcher):
        def on_step(self, epochs, step, steps):
            calls.append((epochs, step, steps))

    training.train(recipe, "das", 5, load("digits"), tmp_path, Steps())
    assert calls == [(epoch, step, 3) for epoch in range(2) for step in range(3)]
    metrics = read(tmp_path / "metrics.json")
    for values in (metrics["untrained"], metrics["last"]):
        assert list(values) == ["recall@1", "recall@2", "recall@4", "recall@8", "map@r"]


def test_what_was_begun_before_a_setting_existed_goes_on(tmp_path):
    recipe, benchmark = dataclasses.replace(small_recipe(), arms={"das": {}}, seeds=(5,)), load("digits")
    experiment = Experiment(recipe, tmp_path)
    experiment.start(benchmark)
    config = {"recipe": recipe.arm("das").to_dict(), "held_out_classes": None, "data": {}, "weights": None}
    older = {name: value for name, value in config["recipe"].items() if name != "steps_per_epoch"}
    run = experiment.exported.path
    Checkpoints(run, {**config, "recipe": older, "sessions": []}).begin({"recall@1": 0.5})
    saved = read(tmp_path / "experiment.json")
    del saved["recipe"]["steps_per_epoch"]
    (tmp_path / "experiment.json").write_text(json.dumps(saved))
    experiment.start(benchmark)
    assert Checkpoints(run, {**config, "sessions": []}).restore(None, {}) == State({"recall@1": 0.5})


def test_a_run_begun_with_other_settings_is_not_continued(tmp_path):
    benchmark = load("digits")
    with pytest.raises(Stopped):
        training.train(small_recipe(), "das", 5, benchmark, tmp_path, Stop())
    with pytest.raises(ValueError, match="other settings"):
        training.train(small_recipe(l2_decay=0.5), "das", 5, benchmark, tmp_path)


def test_the_rate_falls_with_the_first_step_after_a_milestone():
    recipe = dataclasses.replace(small_recipe(), learning_rate=1.0, lr_milestones=(2, 3), lr_gamma=0.5)
    model = building.build_model(recipe, building.build_encoder(recipe), num_classes=5, steps_per_epoch=4, seed=0)
    rates = []
    # Iterations are counted from 0: the first step of the third epoch, after two of four steps, is number 8.
    for step in (0, 7, 8, 11, 12, 20):
        model.optimizer.iterations.assign(step)
        rates.append(float(model.optimizer.learning_rate))
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_names(capsys):
    assert reproduce.main(["--list"]) == 0
    assert "digits" in capsys.readouterr().out
    assert reproduce.main(["digts"]) == 2
    assert "Did you mean 'digits'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("das.topk=3", "'topk'.*'top_k'"),
        ("epoch=3", "'epoch'.*'epochs'"),
        ("epochs=many", "epochs: expected int.*'many'"),
        ("epochs=1.5", "expected int.*1.5"),
        ("frozen_batch_norm=1", "expected bool"),
        ("epochs", "key=value"),
        ("epochs.x=1", "no keys of its own"),
    ],
)
def test_wrong_overrides(assignment, message):
    with pytest.raises(ValueError, match=message):
        override(recipes.get("digits"), [assignment])


def test_overrides():
    recipe = override(
        recipes.get("digits"),
        ["das.scale_range=0.5,2", "loss_args.alpha=3", "channels=3", "learning_rate=1", "ks=1", "das.detach=False"],
    )
    assert recipe.das.scale_range == (0.5, 2.0)
    assert recipe.das.detach is False
    assert recipe.loss_args == {"alpha": 3}
    assert (recipe.channels, recipe.learning_rate, recipe.ks) == (3, 1.0, (1,))
    assert override(recipe, ["das=None"]).das is None
    with pytest.raises(ValueError, match="Unknown arm 'dsa'"):
        recipe.arm("dsa")


def test_recipes_are_frozen_and_named_after_themselves():
    for name, recipe in recipes.RECIPES.items():
        assert recipe.name == name
        assert recipe.exported in recipe.arms
        for arm in recipe.arms:
            assert isinstance(recipe.arm(arm), Recipe)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipes.get("digits").epochs = 3


def test_experiment_lists_all_arms_of_a_seed_first(tmp_path):
    experiment = Experiment(recipes.get("digits"), tmp_path)
    assert experiment.runs[:2] == [("baseline", 0), ("das", 0)]
    assert experiment.exported.path == tmp_path / "das" / "seed-0"


def test_cross_validation_holds_out_every_training_class_once(tmp_path, capsys):
    folder = tmp_path / "folds"
    command = ["digits", "--folds", "2", "--output", str(folder), *SMALL, "--set", "arms={'das': {}}"]
    assert reproduce.main(command) == 0
    assert "epoch chosen on held-out training classes, 2 folds" in capsys.readouterr().out
    runs = [folder / "das" / "seed-3" / f"fold-{number}" for number in (0, 1)]
    held_out = [read(run / "run.json")["held_out_classes"] for run in runs]
    assert sorted(np.concatenate(held_out)) == [0, 1, 2, 3, 4]
    benchmark = load("digits")
    for run, classes in zip(runs, held_out, strict=True):
        # One row of state per class that was trained on.
        assert len(np.load(run / "das_state.npz")["bank_fill"]) == 5 - len(classes)
        # The encoder is that of the best epoch on the held-out classes.
        history = read(run / "history.json")["val_map@r"]
        rows = np.flatnonzero(np.isin(benchmark.train.labels, classes))
        encoder = keras.models.load_model(run / "encoder.keras")
        embeddings = encoder.predict(benchmark.train.images[rows].astype("float32"), verbose=0)
        assert evaluate_retrieval(embeddings, benchmark.train.labels[rows]).map_at_r == pytest.approx(
            max(history), abs=2e-3
        )
        # The numbers are those of the test classes.
        saved = np.load(run / "test_embeddings.npz")
        assert read(run / "metrics.json")["selected"]["recall@1"] == pytest.approx(
            evaluate_retrieval(saved["embeddings"], benchmark.test.labels).recall[1]
        )
    rows = [line.split("|")[1].strip() for line in (folder / "cross_validation.md").read_text().splitlines()[2:]]
    assert rows == ["das", "das, concatenated"]
    result = read(folder / "cross_validation.json")
    assert set(result["runs"][0]["epoch"]) <= {1, 2}
    assert result["data"]["fingerprint"] == benchmark.fingerprint
    assert result["code"] == [read(runs[0] / "run.json")["code"]]
    assert reproduce.main(command) == 0
    assert "shown, not repeated" in capsys.readouterr().out
    assert reproduce.main(["digits", "--folds", "9", "--output", str(tmp_path / "no"), *SMALL]) == 1
    assert "Received: 9" in capsys.readouterr().err


def test_only_an_unfinished_cross_validation_demands_its_weights_file(tmp_path):
    recipe = dataclasses.replace(recipes.get("digits"), weights="gone.h5", seeds=(3,), arms={"das": {}})
    experiment, benchmark = Experiment(recipe, tmp_path), load("digits")
    for number in (0, 1):
        with pytest.raises(FileNotFoundError, match=r"no weights file gone\.h5"):
            experiment.start(benchmark, folds=2)
        run = experiment.files.fold("das", 3, number).path
        run.mkdir(parents=True)
        (run / "metrics.json").write_text("{}")
    experiment.start(benchmark, folds=2)
    assert read(tmp_path / "experiment.json")["folds"] == 2


def test_tensorboard_gets_scalars_and_the_projector(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = small_recipe()
    training.train(dataclasses.replace(recipe, epochs=1), "das", 0, load("digits"), tmp_path, tensorboard=True)

    def names(writer):
        (log,) = (tmp_path / "tensorboard" / writer).glob("events*")
        events = EventAccumulator(str(log))
        events.Reload()
        return set(events.Tags()["tensors"])

    assert {"epoch_loss", "epoch_produced_distance", "epoch_bank_fill"} <= names("train")
    # Keras puts what is called val_ into a log of its own.
    assert {"epoch_recall@1", "epoch_map@r"} <= names("validation")
    assert (tmp_path / "tensorboard" / "projector_config.pbtxt").exists()
