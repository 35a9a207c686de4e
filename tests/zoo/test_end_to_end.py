"""The benchmarks' own recipes, from TFRecords as TensorFlow Datasets prepares them to a searchable index."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tiny_datasets
from tiny_pictures import photograph

import export
from keras_dml.data import ImagePreprocessing, PKBatches, load
from keras_dml.evaluation import evaluate_retrieval
from zoo import building, recipes, reproduce
from zoo.experiment import Experiment

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("cub200", "cars196", "sop", "omniglot")
# The two arms of each recipe, without and with DAS.
ARMS = {
    "cub200": ("baseline", "das"),
    "cars196": ("baseline", "das"),
    "sop": ("baseline", "das"),
    "omniglot": ("ms", "ms_das"),
}
# Runs that choose an epoch are the same code for all benchmarks, and as long as the others.
SELECTING = ("cub200", "omniglot")
KS = (1, 2)
EPOCHS = 2


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    # Four training classes each: two of them can be held out to choose an epoch.
    tiny_datasets.cub200(folder, classes=(0, 1, 2, 3, 100, 101))
    tiny_datasets.cars(folder, classes=(0, 1, 2, 97, 98, 195))
    tiny_datasets.online_products(folder, train=(0, 1, 5, 6))
    tiny_datasets.characters(folder)
    return folder


def changes(name):
    """What a few pictures and a small processor ask for; all else stays as published."""
    recipe = recipes.get(name)
    return {
        "arms": {arm: dict(recipe.arms[arm]) for arm in ARMS[name]},
        "exported": ARMS[name][1],
        "backbone": "small_conv",
        "backbone_options": {"widths": (4, 8)},
        "weights": None,
        "embedding_dim": 8,
        "input_size": 16,
        "resize": 20,
        "classes_per_batch": 2,
        # Of two classes, with one or two batches an epoch, chance would draw an epoch without negatives.
        "replacement": False,
        "learning_rate": 1e-3,
        "lr_milestones": (),
        "select_epoch": name in SELECTING,
        "ks": KS,
    }


def command(name, data_dir, folder):
    settings = [text for key, value in changes(name).items() for text in ("--set", f"{key}={value}")]
    return [
        *(name, "--data-dir", str(data_dir), "--subset", "--output", str(folder)),
        *("--epochs", str(EPOCHS), "--seed", "0", *settings),
    ]


@pytest.fixture(scope="module", params=NAMES)
def experiment(request, data_dir, tmp_path_factory):
    """Name and folder of a finished experiment; that of SOP was run as users run it, in a process of its own."""
    name = request.param
    folder = tmp_path_factory.mktemp("runs") / name
    arguments = command(name, data_dir, folder)
    if name == "sop":
        process = [sys.executable, "-m", "zoo.reproduce", *arguments]
        subprocess.run(process, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    else:
        assert reproduce.main(arguments) == 0
    return name, folder


def read(path):
    return json.loads(path.read_text())


def recalls_and_map(result):
    return {**{f"recall@{k}": result.recall[k] for k in KS}, "map@r": result.map_at_r}


def test_metrics_are_those_of_the_saved_encoder_on_the_test_images(experiment, data_dir):
    name, folder = experiment
    benchmark = load(name, data_dir, subset=True)
    for arm in ARMS[name]:
        run = folder / arm / "seed-0"
        config = read(run / "run.json")
        assert (config["benchmark"], config["data"]["fingerprint"]) == (name, benchmark.fingerprint)
        assert (config["recipe"]["das"] is not None) == (run / "das_state.npz").exists() == arm.endswith("das")
        images = benchmark.test.dataset(ImagePreprocessing.from_config(config["preprocessing"]))
        keras.utils.set_random_seed(0)
        untrained = building.build_encoder(dataclasses.replace(recipes.get(name), **changes(name)).arm(arm))
        trained = keras.models.load_model(run / "encoder.keras")
        metrics = read(run / "metrics.json")
        embeddings = []
        for encoder, values in ((untrained, metrics["untrained"]), (trained, metrics["last"])):
            embeddings.append(encoder.predict(images, verbose=0))
            expected = recalls_and_map(evaluate_retrieval(embeddings[-1], benchmark.test.labels, ks=KS))
            assert {metric: values[metric] for metric in expected} == pytest.approx(expected, abs=1e-6)
            assert np.isfinite(list(values.values())).all()
        assert not np.allclose(*embeddings, atol=1e-3)
        history = read(run / "history.json")
        assert all(np.isfinite(values).all() and len(values) == EPOCHS for values in history.values())


def test_the_record_says_what_was_run_and_what_came_out(experiment, data_dir):
    name, folder = experiment
    record = read(folder / "record.json")
    assert (record["name"], record["seeds"]) == (name, [0])
    benchmark = load(name, data_dir, subset=True)
    data = record["data"]
    assert (data["benchmark"], data["subset"], data["fingerprint"]) == (name, True, benchmark.fingerprint)
    assert data["train"] == {"images": len(benchmark.train), "classes": 4}
    assert data["test"] == {"images": len(benchmark.test), "classes": benchmark.test.num_classes}
    assert record["recipe"]["classes_per_batch"] == 2
    (versions,) = record["versions"]
    assert versions["keras"] == keras.__version__
    assert tuple(record["arms"]) == ARMS[name]
    for arm, values in record["arms"].items():
        metrics, history = (read(folder / arm / "seed-0" / f"{file}.json") for file in ("metrics", "history"))
        recall = history["val_recall@1"]
        assert values["untrained"]["recall@1"] == [metrics["untrained"]["recall@1"]]
        assert values["last"]["recall@1"] == [metrics["last"]["recall@1"]] == pytest.approx([recall[-1]])
        assert values["best_test"]["recall@1"] == [max(recall)]
        assert ("selected" in values) == (name in SELECTING)
        if name in SELECTING:
            held_out = read(folder / arm / "selection" / "history.json")["val_map@r"]
            assert values["selected"]["epoch"] == 1 + int(np.argmax(held_out))
            assert values["selected"]["recall@1"] == [recall[values["selected"]["epoch"] - 1]]
        published = recipes.get(name).arms[arm].get("published")
        assert values["published"] == (None if published is None else read_back(published))


def read_back(value):
    return json.loads(json.dumps(value))


def test_the_exported_index_answers(experiment, data_dir):
    name, folder = experiment
    test = load(name, data_dir, subset=True).test
    model = export.load(folder / "export" / name)
    for row in (0, len(test) - 1):
        found = model.search(test.image(row), k=2)
        assert found.ids[0][0] == test.ids[row]
    assert (folder / "query.png").exists()


def test_part_of_a_benchmark_is_refused_unless_asked_for(data_dir, tmp_path, capsys):
    for name, numbers in (
        ("cub200", "train classes 4 instead of 100; train images 16 instead of 5864"),
        ("cars196", "train classes 4 instead of 98"),
        ("sop", "train classes 4 instead of 11318"),
        ("omniglot", "train classes 4 instead of 964"),
    ):
        folder = tmp_path / name
        arguments = [text for text in command(name, data_dir, folder) if text != "--subset"]
        assert reproduce.main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: The data are not the whole benchmark '{name}'")
        assert numbers in error
        assert "--subset (on the command line)" in error
        assert not folder.exists()


def test_an_experiment_is_not_continued_with_other_data(data_dir, tmp_path, capsys):
    recipe = dataclasses.replace(recipes.get("cub200"), epochs=EPOCHS, seeds=(0,), **changes("cub200"))
    folder = tmp_path / "run"
    Experiment(recipe, folder).start(load("cub200", data_dir, subset=True))
    run = folder / "baseline" / "seed-0" / "run.json"
    run.parent.mkdir(parents=True)
    run.write_text("{}")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    tiny_datasets.cub200(tmp_path, classes=(0, 1, 2, 3, 100, 101), per_class=5)
    # Finished runs are not looked at again: old arms would stand beside new ones.
    assert reproduce.main(command("cub200", tmp_path, folder)) == 1
    error = capsys.readouterr().err
    assert f"{folder} holds an experiment on other data" in error
    assert "Nothing was changed. Give another --output" in error
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_what_failed_before_the_first_run_can_be_corrected(data_dir, tmp_path, capsys):
    benchmark = load("cub200", data_dir, subset=True)
    arguments = command("cub200", data_dir, tmp_path)
    assert reproduce.main([*arguments, "--set", "weights=imagenet"]) == 1
    assert "small_conv has no ImageNet weights" in capsys.readouterr().err
    recipe = dataclasses.replace(recipes.get("cub200"), epochs=EPOCHS, seeds=(0,), **changes("cub200"))
    Experiment(recipe, tmp_path).start(benchmark)
    assert read(tmp_path / "experiment.json")["recipe"]["weights"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("embedding_dim=4", "Arm 'das': `das.top_k` must be at most the embedding width. Received: top_k=8"),
        ("resize=8", "`resize`, the short side before cropping, must be at least `size`"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_any_arm_is_trained(data_dir, tmp_path, capsys, change, message):
    folder = tmp_path / "run"
    assert reproduce.main([*command("cub200", data_dir, folder), "--set", change]) == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()


def test_missing_data_are_named(tmp_path, capsys):
    assert reproduce.main(command("cub200", tmp_path / "nowhere", tmp_path / "run")) == 1
    error = capsys.readouterr().err
    assert "nowhere does not exist" in error
    assert "caltech_birds2011" in error
    assert "CUB_200_2011.tgz" in error


def test_one_step_of_the_published_network(data_dir):
    """ResNet-50 at 224 pixels with every setting of the recipe, but for its weights and the size of a batch."""
    recipe = dataclasses.replace(recipes.get("cub200").arm("das"), weights=None)
    train = load("cub200", data_dir, subset=True).train
    keras.utils.set_random_seed(0)
    encoder = building.build_encoder(recipe)
    assert encoder.output_shape == (None, 512)
    model = building.build_model(recipe, encoder, train.num_classes, 1, 0)
    batches = PKBatches(train, building.preprocessing(recipe), 2, 2, augment=building.build_augment(recipe))
    before = [np.array(weight) for weight in encoder.trainable_weights]
    history = model.fit(batches.dataset(), steps_per_epoch=1, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    # Multi-similarity has a gradient for every pair: all weights moved.
    moved = [not np.array_equal(old, new) for old, new in zip(before, encoder.trainable_weights, strict=True)]
    assert np.mean(moved) > 0.9
    image = np.asarray(photograph(3, 256, 256), np.float32)[None, 16:240, 16:240]
    np.testing.assert_allclose(np.linalg.norm(encoder(image, training=False), axis=1), 1.0, atol=1e-5)
