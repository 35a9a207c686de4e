"""What `--set` changes in a recipe, what it refuses, and what a recipe itself refuses."""

import dataclasses
import re
import warnings

import pytest

from zoo import building, recipes
from zoo.overrides import override
from zoo.recipe import DAS, evaluated_epochs


@pytest.fixture(autouse=True)
def _no_unexpected_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("arms.dass.top_k=3", "arm in --set arms.dass.top_k: 'dass'. Did you mean 'das'?"),
        ("arms.dass={}", "'dass'. Did you mean 'das'?"),
        ("lr=1", "key in --set lr: 'lr'. Did you mean 'learning_rate'?"),
        ("arms.das.lr=1", "key in --set arms.das.lr: 'lr'. Did you mean 'learning_rate'?"),
        ("arms.das.los=margin", "key in --set arms.das.los: 'los'. Did you mean 'loss'?"),
        ("arms.das.das.topk=3", "'topk'. Did you mean 'top_k'?"),
        ("arms.das.epochs=many", "--set arms.das.epochs: expected int. Received: 'many'"),
        ("arms.das.seeds=(1,)", "setting of arm 'das': 'seeds'"),
        ("arms={'das': {'los': 'margin'}}", "'los'. Did you mean 'loss'?"),
        ("arms={'das': {'epochs': 'many'}}", "expected int. Received: 'many'"),
        ("arms={'das': 3}", "--set arms.das: expected Mapping. Received: 3"),
        ("arms=das", "--set arms: expected Mapping. Received: 'das'"),
    ],
)
def test_wrong_settings_of_arms(assignment, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        override(recipes.get("digits"), [assignment])


def test_settings_of_one_arm():
    digits = recipes.get("digits")
    recipe = override(digits, ["arms.das.das.bank_size=5", "arms.das.l2_decay=4", "arms.baseline.loss_args.alpha=3"])
    # The rest of what the arm trains with stays.
    assert recipe.arm("das").das == dataclasses.replace(digits.das, bank_size=5)
    assert recipe.arm("das").l2_decay == 4
    assert recipe.arm("baseline") == dataclasses.replace(
        digits.arm("baseline"), loss_args={"alpha": 3}, arms=recipe.arms
    )
    assert (recipe.das, recipe.l2_decay, recipe.loss_args) == (digits.das, digits.l2_decay, digits.loss_args)
    # An arm without DAS gets the one of the recipe's defaults.
    assert override(digits, ["arms.baseline.das.top_k=3"]).arm("baseline").das == DAS(top_k=3)


def test_all_settings_of_arms_are_replaced():
    digits = recipes.get("digits")
    assert override(digits, ["arms={'das': {}}"]).arms == {"das": {}}
    assert override(digits, ["arms.baseline={'channels': 3}"]).arms == {"baseline": {"channels": 3}, "das": {}}
    # Written out in full, as a record shows them.
    written = {arm: dict(options) for arm, options in recipes.get("cub200").arms.items()}
    assert override(recipes.get("cub200"), [f"arms={written}"]) == recipes.get("cub200")


def test_names_of_arms_may_hold_dots():
    recipe = override(recipes.get("omniglot_das"), ["arms.shift_0.5.das.top_k=3"])
    before = recipes.get("omniglot_das")
    for arm in recipe.arms:
        top_k = 3 if arm == "shift_0.5" else before.arm(arm).das and before.arm(arm).das.top_k
        assert (recipe.arm(arm).das and recipe.arm(arm).das.top_k) == top_k


def test_a_field_that_every_arm_sets_is_refused():
    losses = recipes.get("sop_losses")
    message = r"--set das\.top_k would change nothing: every arm sets `das` itself\. Set arms\.ARM\.das\.top_k"
    with pytest.raises(ValueError, match=message):
        override(losses, ["das.top_k=99"])
    changed = override(losses, ["arms.n_pair_das.das.top_k=99"])
    assert changed.arm("n_pair_das").das == dataclasses.replace(losses.arm("n_pair_das").das, top_k=99)


def test_arms_that_keep_their_own_value_are_named():
    ablation = recipes.get("cars196_ablation")
    with pytest.warns(UserWarning, match=r"leaves arms that set `das` themselves as they are: scaling, shifting\. Set"):
        recipe = override(ablation, ["das.top_k=9"])
    assert {arm: recipe.arm(arm).das and recipe.arm(arm).das.top_k for arm in recipe.arms} == {
        "none": None,
        "scaling": 4,
        "shifting": 4,
        "both": 9,
    }
    # Nobody expects DAS's settings to change the arm without DAS, and it is as `das=None` wants it: no warning.
    assert override(recipes.get("digits"), ["das.top_k=3", "channels=3"]).arm("das").das.top_k == 3
    assert override(recipes.get("digits"), ["das=None"]).arm("das").das is None


def test_another_input_size_that_crops_otherwise_is_named():
    cub = recipes.get("cub200")
    assert (cub.input_size, cub.resize) == (224, 256)
    with pytest.warns(UserWarning, match="Test images are still resized") as warned:
        assert override(cub, ["input_size=112"]).resize == 256
    (text,) = [str(one.message) for one in warned]
    assert "resize=256, of which the middle input_size=112 is seen, 44% of the short side instead of 88%" in text
    assert f"add --set resize=128 (arms: {', '.join(cub.arms)})" in text
    first, *_ = cub.arms
    with pytest.warns(UserWarning, match=rf"add --set arms\.{first}\.resize=128 \(arms: {first}\)"):
        override(cub, [f"arms.{first}.input_size=112"])
    # Whoever names `resize` has chosen, and without it nothing is cut away.
    assert override(cub, ["input_size=112", "resize=256"]).input_size == 112
    assert override(cub, ["input_size=112", "resize=128"]).resize == 128
    assert override(recipes.get("digits"), ["input_size=16"]).input_size == 16


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            ["epochs=12"],
            "The run has epochs=12, and the learning rate still falls at lr_milestones=(4, 5), which were chosen for "
            'epochs=6. To scale them, add --set "lr_milestones=(8, 10)" (arms: baseline, das)',
        ),
        (
            ["epochs=3"],
            "The run has epochs=3, and ends before the learning rate falls at lr_milestones=(4, 5). To scale them, add "
            '--set "lr_milestones=(2,)" (arms: baseline, das)',
        ),
        (["epochs=1"], 'add --set "lr_milestones=()"'),
        (["arms.das.epochs=12"], 'add --set "arms.das.lr_milestones=(8, 10)" (arms: das)'),
        (["lr_milestones=(2, 6)"], "ends before the learning rate falls at lr_milestones=(6,). (arms: baseline, das)"),
    ],
)
def test_milestones_that_do_not_fit_the_epochs_are_named(assignments, message):
    with pytest.warns(UserWarning, match=re.escape(message)) as warned:
        override(recipes.get("digits"), assignments)
    assert len(warned) == 1


def test_milestones_that_fit_the_epochs_are_taken_in_silence():
    assert override(recipes.get("digits"), ["epochs=12", "lr_milestones=(4, 5)"]).epochs == 12
    assert override(recipes.get("digits_pddm"), ["lr_milestones=()", "epochs=12"]).epochs == 12
    assert override(recipes.get("omniglot_pddm"), ["epochs=12"]).lr_milestones == ()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("das.scale_range=0.5", "--set das.scale_range: expected 2 values (float, float). Received: 0.5"),
        ("das.scale_range=(0.5, 1, 2)", "expected 2 values (float, float). Received: (0.5, 1, 2)"),
        ("das.scale_range=('a', 'b')", "expected float. Received: 'a'"),
        ("loss_args.miner.x=3", "--set loss_args.miner.x: there is no 'x', as 'semi_hard' has no keys"),
        ("loss_args=3", "--set loss_args: expected Mapping. Received: 3"),
        ("embedding_dim=0", "`embedding_dim` of a recipe must be at least 1. Received: embedding_dim=0"),
        ("ks=(2, 4)", "`ks` must hold 1, the rank every table shows. Received: ks=(2, 4)"),
    ],
)
def test_wrong_values(assignment, message):
    recipe = dataclasses.replace(recipes.get("digits"), loss_args={"miner": "semi_hard"})
    with pytest.raises(ValueError, match=re.escape(message)):
        override(recipe, [assignment])


def test_tuples():
    recipe = override(recipes.get("digits"), ["das.scale_range=[0.5, 2]", "lr_milestones=()", "seeds=4", "ks=1,5"])
    assert recipe.das.scale_range == (0.5, 2.0)
    assert (recipe.lr_milestones, recipe.seeds, recipe.ks) == ((), (4,), (1, 5))


def test_a_recipe_refuses_settings_that_no_arm_can_have():
    with pytest.raises(ValueError, match=r"setting of arm 'das': 'learning_rat'\. Did you mean 'learning_rate'"):
        dataclasses.replace(recipes.get("digits"), arms={"das": {"learning_rat": 1.0}})


@pytest.mark.parametrize(
    ("epochs", "every", "expected"),
    [(4, 1, [1, 2, 3, 4]), (9, 4, [1, 5, 9]), (8, 3, [1, 4, 7, 8]), (3, 10, [1, 3]), (1, 1, [1]), (1, 5, [1])],
)
def test_evaluated_epochs(epochs, every, expected):
    recipe = dataclasses.replace(recipes.get("digits"), epochs=epochs, evaluate_every=every)
    assert recipe.evaluated_epochs() == evaluated_epochs(epochs, every) == expected


def test_older_names_of_loss_arguments():
    with pytest.warns(DeprecationWarning, match="`sampler` of the loss triplet is now called `miner`"):
        loss = building.build_loss("triplet", {"sampler": "semi_hard"}, num_classes=2)
    assert loss.get_config()["miner"]["class_name"] == "SemiHardMiner"
