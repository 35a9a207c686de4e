"""The recipes with DINOv2, end to end: every setting but the sizes, a preset of two tiny blocks, a few pictures.

It proves that they run, not how well they do: nobody here has run them at full size.
"""

import dataclasses
import importlib.util
import json

import keras
import numpy as np
import pytest
import tiny_datasets

import export
from keras_dml.data import load
from zoo import recipes, reproduce, training
from zoo.runs import open_run

pytestmark = pytest.mark.skipif(importlib.util.find_spec("keras_hub") is None, reason="needs keras-hub")

NAMES = ("cub200_dinov2", "cars196_dinov2", "sop_dinov2")
SHAPE = (28, 28, 3)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    tiny_datasets.cub200(folder, classes=(0, 1, 2, 3, 100, 101))
    tiny_datasets.cars(folder, classes=(0, 1, 2, 97, 98, 195))
    tiny_datasets.online_products(folder, train=(0, 1, 5, 6))
    return folder


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A DINOv2 of two blocks, in the form in which keras-hub keeps a preset, with position embeddings of 42 x 42 px."""
    import keras_hub

    folder = str(tmp_path_factory.mktemp("preset") / "tiny_dinov2")
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.DINOV2Backbone(
        patch_size=14,
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        image_shape=(42, 42, 3),
        position_embedding_shape=(42, 42),
    )
    backbone.save_to_preset(folder)
    keras_hub.layers.ImageConverter(image_size=(42, 42), scale=1 / 60, offset=-2.0).save_to_preset(folder)
    return folder


def changes(preset):
    return {
        "backbone": f"keras_hub:{preset}",
        "backbone_options": {"image_shape": SHAPE},
        "embedding_dim": 8,
        "input_size": SHAPE[0],
        "resize": 32,
        "classes_per_batch": 2,
        "images_per_class": 2,
        "select_epoch": False,
        "lora_rank": 2,
        "evaluate_every": 1,
        "ks": (1, 2),
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_trains_is_recorded_and_searched(name, data_dir, preset, tmp_path):
    settings = [text for key, value in changes(preset).items() for text in ("--set", f"{key}={value}")]
    arguments = [name, "--data-dir", str(data_dir), "--subset", "--output", str(tmp_path), "--epochs", "2", *settings]
    assert reproduce.main([*arguments, "--seed", "0"]) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert list(record["arms"]) == ["multi_similarity", "multi_similarity_das", "proxy_anchor", "proxy_anchor_das"]
    for arm in record["arms"]:
        history = json.loads((tmp_path / arm / "seed-0" / "history.json").read_text())
        assert np.isfinite(history["loss"]).all()
        run = open_run(tmp_path / arm / "seed-0")
        recipe = run.config["recipe"]
        assert (recipe["precision"], recipe["lora_rank"], recipe["lr_schedule"]) == ("mixed_bfloat16", 2, "cosine")
        # What was saved is what was evaluated, updates of LoRA merged into the kernels.
        found = run.image_encoder().embed(load(recipe["benchmark"], data_dir, subset=True).test)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, run.embeddings().vectors, atol=0.02)
    assert keras.config.dtype_policy().name == "float32"
    benchmark = load(recipes.get(name).benchmark, data_dir, subset=True)
    found = export.load(tmp_path / "export" / name).search(benchmark.test.image(0), k=2)
    assert found.ids[0][0] == benchmark.test.ids[0]


class Stopped(Exception):
    pass


class Stop(training.Watcher):
    def on_epoch(self, epochs, logs):
        if epochs == 2:
            raise Stopped


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_rank": 2},
        {"lora_rank": None, "trainable": 1, "ema": 0.5},
        {"lora_rank": None, "trainable": "all", "precision": "mixed_float16"},
    ],
    ids=["lora", "last block, average", "all, float16"],
)
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(settings, data_dir, preset, tmp_path):
    given = {
        **changes(preset),
        **settings,
        "epochs": 3,
        "arms": {"das": recipes.get("cub200_dinov2").arms["proxy_anchor_das"]},
    }
    recipe = dataclasses.replace(recipes.get("cub200_dinov2"), **given, exported="das")
    benchmark = load("cub200", data_dir, subset=True)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    training.train(recipe, "das", 3, benchmark, whole)
    with pytest.raises(Stopped):
        training.train(recipe, "das", 3, benchmark, stopped, Stop())
    training.train(recipe, "das", 3, benchmark, stopped)
    one, other = (np.load(folder / "test_embeddings.npz")["embeddings"] for folder in (whole, stopped))
    np.testing.assert_array_equal(one, other)
    one, other = (json.loads((folder / "history.json").read_text()) for folder in (whole, stopped))
    assert one == other
