import dataclasses
import json

import numpy as np
import pytest

from keras_dml.data import load
from keras_dml.image_encoder import load_pair_scorer
from keras_dml.losses import DoubleHeaderHinge
from zoo import building, recipes, training

PDDM = [name for name in recipes.RECIPES if name.endswith("_pddm")]


def test_there_is_a_recipe_for_each_listed_benchmark():
    assert {"digits", "omniglot", "cub200", "cub200_cropped", "cars196", "cars196_cropped"} == {
        recipes.get(name).benchmark for name in PDDM
    }


@pytest.mark.parametrize("name", PDDM)
def test_every_arm_can_be_built(name):
    recipe = recipes.get(name)
    for arm in recipe.arms:
        settings = recipe.arm(arm)
        loss = building.build_loss(settings.loss, settings.loss_args, num_classes=10)
        assert isinstance(loss, DoubleHeaderHinge) == (settings.pddm is not None)
        if settings.augment is not None:
            image = np.zeros((300, 280, settings.channels), "uint8")
            shape = (settings.input_size, settings.input_size, settings.channels)
            assert building.build_augment(settings)(image, np.array([0, 1])).shape == shape


def test_published_arm_mines_one_quadruplet_and_trains_the_unit_ten_times_as_fast():
    recipe = recipes.get("cub200_pddm").arm("published")
    assert recipe.loss_args["mining"] == "batch"
    assert recipe.loss_learning_rate == pytest.approx(10 * recipe.learning_rate)
    assert abs(recipe.epochs * (5_864 // 64) - 20_000) < 64


def test_imagenet_is_one_pass_in_epochs_that_can_be_lost():
    for name in ("imagenet2010_zero_shot", "imagenet10k_transfer"):
        recipe = recipes.get(name)
        # 800 of the 1,000 classes of 1,261,406 training images.
        assert recipe.epochs * recipe.steps_per_epoch == pytest.approx(0.8 * 1_261_406 / 64, rel=0.01)
        assert recipe.steps_per_epoch <= 1000
        assert recipe.evaluated_epochs() == [1, recipe.epochs]


def test_run_folder_holds_the_unit(tmp_path):
    recipe = dataclasses.replace(
        recipes.get("digits_pddm"), epochs=1, optimizer="sgd", backbone_options={"widths": (4, 8)}
    )
    training.train(recipe, "pddm", 0, load("digits"), tmp_path)
    embeddings = np.load(tmp_path / "test_embeddings.npz")["embeddings"]
    assert np.isfinite(load_pair_scorer(tmp_path / "pair_scorer.keras").pairwise(embeddings[:10])).all()
    assert {"score_gap", "active_hinges", "embedding_spread"} < set(json.loads((tmp_path / "history.json").read_text()))
