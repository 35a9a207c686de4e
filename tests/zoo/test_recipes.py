"""The recipes of DAS and the listing: what they set, that they can be built, and how their numbers are shown."""

import dataclasses
import inspect
import itertools
import json
import sys

import pytest

from keras_dml import layers, losses
from keras_dml.backbones import BACKBONES, POOLINGS
from keras_dml.backbones.hub import PREFIX
from keras_dml.data import BENCHMARKS
from keras_dml.utils.files import as_json
from zoo import building, recipes
from zoo.files import RECORDS
from zoo.listing import listing
from zoo.tables import title

NARROW, WIDE = (0.99, 1.01), (0.5, 2.0)
LOSSES = {
    "triplet_semi_hard": ("triplet", "semi_hard"),
    "triplet_distance_weighted": ("triplet", "distance_weighted"),
    "contrastive_distance_weighted": ("contrastive", "distance_weighted"),
    "margin_distance_weighted": ("margin", "distance_weighted"),
    "generalized_lifted_structure": ("generalized_lifted_structure", None),
    "n_pair": ("n_pair", None),
    "multi_similarity": ("multi_similarity", None),
}
# Scale range, r_b, detached, weight of the auxiliary loss, normalized: the flags of the authors' scripts.
SMALL = {
    **dict.fromkeys(LOSSES, (NARROW, 0.01, True, None, True)),
    "generalized_lifted_structure": (NARROW, 0.01, True, None, False),
    "n_pair": (NARROW, 0.01, True, None, False),
}
FLAGS = {
    "cub200_losses": SMALL,
    "cars196_losses": SMALL,
    "sop_losses": {
        "triplet_semi_hard": (WIDE, 0.1, True, 1.0, True),
        "triplet_distance_weighted": (WIDE, 0.1, True, 1.0, True),
        "contrastive_distance_weighted": (WIDE, 0.1, False, None, True),
        "margin_distance_weighted": (WIDE, 0.01, False, None, True),
        "generalized_lifted_structure": (NARROW, 0.1, False, None, False),
        "n_pair": (NARROW, 0.1, False, None, False),
        "multi_similarity": (WIDE, 0.1, False, None, True),
    },
}
TABLE_1 = ("cub200", "cub200_ibn", "cars196", "cars196_ibn", "sop", "sop_ibn")
PAPER = (*TABLE_1, *FLAGS, "cars196_ablation", "cars196_table4", "cars196_table4_ibn", "sop_top_k")
ALL_ARMS = [(name, arm) for name, recipe in recipes.RECIPES.items() for arm in recipe.arms]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_benchmark_has_a_headline_recipe(benchmark):
    assert recipes.get(benchmark).benchmark == benchmark


def test_unknown_name_suggests_recipes_and_benchmarks():
    with pytest.raises(ValueError, match="Did you mean 'cars196_losses'"):
        recipes.get("cars196_loses")
    with pytest.raises(ValueError, match="Did you mean 'cub200_cropped'"):
        recipes.get("cub200_croped")


@pytest.mark.parametrize(("name", "arm"), ALL_ARMS)
def test_every_arm_can_be_built(name, arm):
    settings = recipes.get(name).arm(arm)
    assert settings.backbone in BACKBONES or settings.backbone.startswith(PREFIX)
    assert settings.pooling in POOLINGS
    building.build_augment(settings)
    loss = building.build_loss(settings.loss, settings.loss_args, num_classes=10)
    normalized_inputs = getattr(loss, "normalized_inputs", None)
    if normalized_inputs is not None:
        assert settings.normalize == normalized_inputs
    if settings.das is not None:
        layer = layers.DASAugmentation(10, **dataclasses.asdict(settings.das))
        layer.build((None, settings.embedding_dim), (None,))
        assert layer.normalize == settings.normalize
    assert settings.auxiliary_weight is None or settings.das is not None


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_accepted(name):
    building.validate(recipes.get(name))


@pytest.mark.parametrize("name", PAPER)
def test_training_is_that_of_the_authors_code(name):
    for arm in recipes.get(name).arms:
        settings = recipes.get(name).arm(arm)
        assert (settings.optimizer, settings.learning_rate) == ("adam", 1e-5)
        assert (settings.epochs, settings.lr_milestones, settings.lr_gamma) == (300, (200, 250), 0.3)
        special = name == "cub200"
        assert settings.l2_decay == (8e-4 if special else 4e-4)
        assert settings.classes_per_batch * settings.images_per_class == (180 if special else 112)
        assert (settings.images_per_class, settings.replacement) == (2, True)
        assert settings.frozen_batch_norm
        assert settings.weights == "imagenet"
        assert (settings.input_size, settings.resize, settings.augment) == (224, 256, "random_resized_crop")
        assert settings.augment_args == {}
        assert settings.ks == ((1, 10, 100, 1000) if settings.benchmark == "sop" else (1, 2, 4, 8))
        wide = name in (*TABLE_1, "cars196_table4", "cars196_table4_ibn")
        assert (settings.embedding_dim, settings.pooling) == ((512, "avg+max") if wide else (128, "avg"))
        assert settings.backbone == ("bn_inception" if name.endswith("_ibn") else "resnet50")
        # The boundaries of the margin loss have a rate of their own, under the same schedule.
        assert settings.loss_learning_rate == (5e-4 if settings.loss == "margin" else None)
        if settings.das is not None:
            assert (settings.das.num_produced, settings.das.bank_size) == (3, 10)
            if name != "sop_top_k":
                assert settings.das.top_k == (8 if wide else 4)


@pytest.mark.parametrize("name", TABLE_1)
def test_flags_of_table_1(name):
    recipe = recipes.get(name)
    assert list(recipe.arms) == ["baseline", "das"]
    assert recipe.arm("baseline").das is None
    settings = recipe.arm("das")
    das = settings.das
    expected = (WIDE, 0.1, False) if recipe.benchmark == "sop" else (NARROW, 0.01, True)
    assert (das.scale_range, das.shift_scale, das.detach) == expected
    assert (settings.loss, settings.normalize, settings.auxiliary_weight) == ("multi_similarity", True, None)


@pytest.mark.parametrize("name", FLAGS)
def test_flags_of_table_2(name):
    recipe = recipes.get(name)
    assert list(recipe.arms) == [arm for loss in LOSSES for arm in (loss, f"{loss}_das")]
    for arm, (loss, miner) in LOSSES.items():
        scale_range, shift_scale, detach, auxiliary_weight, normalize = FLAGS[name][arm]
        without, settings = recipe.arm(arm), recipe.arm(f"{arm}_das")
        for each in (without, settings):
            assert (each.loss, each.loss_args.get("miner"), each.normalize) == (loss, miner, normalize)
        assert (without.das, without.auxiliary_weight) == (None, None)
        das = settings.das
        assert (das.scale_range, das.shift_scale, das.detach) == (scale_range, shift_scale, detach)
        assert (das.normalize, settings.auxiliary_weight) == (normalize, auxiliary_weight)


def test_ablations_change_one_thing():
    recipe = recipes.get("cars196_ablation")
    halves = {arm: recipe.arm(arm).das for arm in recipe.arms}
    both = halves["both"]
    assert halves["none"] is None
    assert halves["scaling"] == dataclasses.replace(both, shift_scale=0.0)
    assert halves["shifting"] == dataclasses.replace(both, scale_range=(1.0, 1.0))
    losses_row = recipes.get("cars196_losses").arm("triplet_distance_weighted_das")
    assert (both, recipe.loss, recipe.loss_args) == (losses_row.das, losses_row.loss, losses_row.loss_args)

    widths = recipes.get("sop_top_k")
    expected = recipes.get("sop_losses").arm("margin_distance_weighted_das").das
    assert {arm: widths.arm(arm).das for arm in widths.arms} == {
        f"k{top_k}": dataclasses.replace(expected, top_k=top_k) for top_k in (1, 2, 4, 8, 16, 32)
    }


def test_constraint_pulls_real_embeddings_as_hard_with_das_as_without():
    recipe = recipes.get("cars196_table4_ibn")
    without, settings = recipe.arm("multi_similarity_sec"), recipe.arm("multi_similarity_sec_das")
    assert without.loss_args["weight"] == 0.01
    # The penalty is a mean over all embeddings, and the produced ones are detached.
    assert settings.das.detach
    share_of_real = 1 / (1 + settings.das.num_produced)
    assert settings.loss_args["weight"] * share_of_real == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("loss", "constants"),
    [
        ("contrastive", {"positive_margin": 0.0, "negative_margin": 1.0}),
        ("triplet", {"margin": 0.2}),
        ("margin", {"margin": 0.2, "beta": 1.2}),
        ("multi_similarity", {"alpha": 2.0, "beta": 40.0, "base": 0.5, "epsilon": 0.1}),
        ("n_pair", {"divisor": 4.0, "norm_weight": 0.005}),
        ("generalized_lifted_structure", {"margin": 1.0, "norm_weight": 0.005}),
        ("spherical_embedding_constraint", {"momentum": 0.999}),
    ],
)
def test_defaults_of_the_losses_are_the_constants_the_recipes_rely_on(loss, constants):
    parameters = inspect.signature(losses.loss_class(loss)).parameters
    assert {name: parameters[name].default for name in constants} == constants


@pytest.mark.parametrize("name", PAPER)
def test_figures_are_published_for_every_arm_of_the_tables(name):
    recipe = recipes.get(name)
    wanted = {"recall@1"}
    if name in TABLE_1:
        wanted = {f"recall@{k}" for k in recipe.ks}
    elif name in FLAGS:
        wanted = {"recall@1", "f1", "nmi"}
    for arm in recipe.arms:
        published = recipe.arm(arm).published
        if name.startswith("cars196_table4") and arm == "margin":
            assert not published  # ours, to compare with
            continue
        assert published["source"].startswith("DAS, ECCV 2022")
        assert set(published["metrics"]) == wanted
        assert all(30 < value < 100 for value in published["metrics"].values())


@pytest.mark.parametrize("name", FLAGS)
def test_docstrings_state_the_figures_of_table_2(name):
    recipe = recipes.get(name)
    text = sys.modules[f"zoo.recipes.{recipe.benchmark}"].__doc__
    for loss in LOSSES:
        figures = [recipe.arm(arm).published["metrics"]["recall@1"] for arm in (loss, f"{loss}_das")]
        assert text.count("{:.2f} -> {:.2f}".format(*figures)) == 1


@pytest.mark.parametrize(
    ("name", "images"),
    [
        *(("cub200", 5_864), ("cub200_losses", 5_864), ("cars196", 8_054), ("sop", 59_551), ("inshop", 25_882)),
        ("imagenet2010_zero_shot", 0),
        ("inaturalist2018", 325_846),
    ],
)
def test_docstrings_state_what_was_not_run_by_us_and_its_steps(name, images):
    recipe = recipes.get(name)
    text = sys.modules[f"zoo.recipes.{recipe.benchmark.removesuffix('2010_zero_shot').removesuffix('2018')}"].__doc__
    batch = recipe.classes_per_batch * recipe.images_per_class
    steps = recipe.epochs * (recipe.steps_per_epoch or images // batch)
    assert f"{steps:,} steps of {batch} images" in text
    assert "not run by us" in text
    assert not (RECORDS / f"{name}.json").exists()


def test_cropped_images_have_no_figure_of_the_triplet_variant():
    for name in ("cub200", "cars196"):
        whole, cropped = recipes.get(f"{name}_pddm"), recipes.get(f"{name}_cropped_pddm")
        assert whole.arm("published_triplets").published
        assert not cropped.arm("published_triplets").published
        recall = whole.arm("published").published["metrics"]["recall@1"]
        assert cropped.arm("published").published["metrics"] == {"recall@1": recall}
        settings = dataclasses.replace(whole.arm("published_triplets"), published={})
        assert cropped.arm("published_triplets").loss_args == settings.loss_args


def test_figures_of_others_are_marked_as_such():
    for target in ("clipart", "infograph", "painting", "quickdraw", "sketch"):
        recipe = recipes.get(f"domainnet_{target}")
        source = "listing, protocol unverified (average over the five targets 49.51)"
        assert recipe.arm("das").published["source"] == source
        assert not recipe.arm("baseline").published
    assert not any(recipes.get("inshop").arm(arm).published for arm in ("baseline", "das"))
    assert not recipes.get("cub200_pddm").arm("pair").published


def lines_of(text, recipe):
    """The lines below `recipe` in a listing, as cells."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"  {recipe}: "))
    below = itertools.takewhile(lambda line: line.startswith("    "), lines[start + 1 :])
    return [[cell.strip() for cell in line.strip().split("  ") if cell.strip()] for line in below]


def rows_of(text, recipe):
    """Cells by arm, of the rows below `recipe` in a listing; every arm has one."""
    lines = lines_of(text, recipe)
    rows = {arm: cells for arm, *cells in lines}
    assert len(rows) == len(lines)
    return rows


def record(name, settings=None, **fields):
    """A record of the zoo's recipe, with other `settings`, as it is read back."""
    recipe = as_json(dataclasses.replace(recipes.get(name), **(settings or {})).to_dict())
    defaults = {"seeds": [0, 1, 2], "data": {"subset": False}, "changed_settings": [], "arms": {}, "recipe": recipe}
    return {"format": 1, "name": name, **defaults, **fields}


def test_listing_names_every_recipe_and_arm(tmp_path):
    text = listing(tmp_path)
    for name, recipe in recipes.RECIPES.items():
        assert set(recipe.arms) <= {arm.split(",")[0] for arm in rows_of(text, name)}
    assert rows_of(text, "cars196_losses")["margin_distance_weighted_das"] == ["82.29", "-", "-", "-"]
    assert rows_of(text, "digits")["das"] == ["-", "-", "-", "-"]
    # One metric for all arms of a recipe, so that they can be compared.
    unseen = rows_of(text, "imagenet2010_zero_shot")
    assert unseen["published, Recall@5"] == ["48.20", "-", "-", "-"]
    assert unseen["pair, Recall@5"] == ["-", "-", "-", "-"]
    assert "Benchmark cub200_cropped (runs cub200_cropped_pddm)" in text
    assert "published: listing, protocol unverified (average over the five targets 49.51)" in text


def test_listing_shows_published_beside_measured(tmp_path):
    arms = {
        "das": {
            "published": {"source": "", "metrics": {"recall@1": 87.84}},
            "last": {"epoch": 300, "recall@1": [0.1, 0.2, 0.6], "map@r": [0.01, 0.01, 0.01]},
            "selected": {"epoch": 10, "recall@1": [0.5, 0.5, 0.5]},
            "best_test": {"epoch": [3, 4, 5], "recall@1": [0.7, 0.7, 0.8]},
        }
    }
    (tmp_path / "cars196.json").write_text(json.dumps(record("cars196", arms=arms)))
    rows = rows_of(listing(tmp_path), "cars196")
    assert rows["das"] == ["87.84", "30.00 ± 26.46", "50.00 ± 0.00", "73.33 ± 5.77"]
    assert rows["baseline"] == ["83.99", "-", "-", "-"]
    assert "measured: seeds 0, 1, 2" in rows


def test_listing_shows_the_published_metric_of_a_measured_arm(tmp_path):
    arms = {arm: {"last": {"recall@1": [0.1], "recall@5": [0.3]}} for arm in ("published", "pair")}
    measured = record("imagenet2010_zero_shot", arms=arms, seeds=[0])
    (tmp_path / "imagenet2010_zero_shot.json").write_text(json.dumps(measured))
    rows = rows_of(listing(tmp_path), "imagenet2010_zero_shot")
    assert rows["published, Recall@5"] == ["48.20", "30.00", "-", "-"]
    assert rows["pair, Recall@5"] == ["-", "30.00", "-", "-"]


def test_listing_of_one_recipe_shows_all_that_is_published_or_measured(tmp_path):
    arms = {"das": {"last": {"epoch": 300, "recall@1": [0.5], "map@r": [0.25]}}}
    (tmp_path / "cars196.json").write_text(json.dumps(record("cars196", arms=arms, seeds=[0])))
    text = listing(tmp_path, "cars196")
    assert lines_of(text, "cars196")[2:] == [
        ["baseline", "83.99", "-", "-", "-"],
        ["baseline, Recall@2", "90.39", "-", "-", "-"],
        ["baseline, Recall@4", "94.51", "-", "-", "-"],
        ["baseline, Recall@8", "96.80", "-", "-", "-"],
        ["das", "87.84", "50.00", "-", "-"],
        ["das, Recall@2", "93.15", "-", "-", "-"],
        ["das, Recall@4", "95.99", "-", "-", "-"],
        ["das, Recall@8", "97.85", "-", "-", "-"],
        ["das, MAP@R", "-", "25.00", "-", "-"],
    ]
    assert "cub200" not in text
    with pytest.raises(ValueError, match="Did you mean 'cars196'"):
        listing(tmp_path, "cars19")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_published_figure_can_be_listed(name, tmp_path):
    rows = rows_of(listing(tmp_path, name), name)
    for arm in recipes.get(name).arms:
        for metric, value in recipes.get(name).arm(arm).published.get("metrics", {}).items():
            row = arm if metric == "recall@1" else f"{arm}, {title(metric)}"
            assert rows[row][0] == f"{value:.2f}"


def test_the_figures_of_pddm_that_are_known_can_be_listed(tmp_path):
    known = {
        "cub200_pddm": (58.3, 69.2, 79.0, 88.4, 93.1, 95.7, 55.0),
        "cars196_pddm": (57.4, 68.6, 80.1, 89.4, 92.3, 94.9, 55.2),
    }
    for name, figures in known.items():
        rows = rows_of(listing(tmp_path, name), name)
        titles = ("published", *(f"published, Recall@{k}" for k in (2, 4, 8, 16, 32)), "published, Recall@1 by score")
        assert [float(rows[row][0]) for row in titles] == list(figures)


PART = "measured on part of the data, not comparable with published figures"


def test_listing_keeps_what_part_of_the_data_gives_apart_from_published_figures(tmp_path):
    arms = {"das": {"last": {"recall@1": [0.5]}}}
    for name in ("cars196", "omniglot"):
        parts = record(name, arms=arms, seeds=[0], data={"subset": True})
        (tmp_path / f"{name}.json").write_text(json.dumps(parts))
    lines = lines_of(listing(tmp_path), "cars196")
    assert lines[1:] == [
        ["baseline", "83.99", "-", "-", "-"],
        ["das", "87.84", "-", "-", "-"],
        [f"{PART}: seeds 0"],
        ["baseline", "-", "-", "-", "-"],
        ["das", "-", "50.00", "-", "-"],
    ]
    # Without published figures there is nothing to keep apart.
    assert list(rows_of(listing(tmp_path), "omniglot")) == [f"{PART}: seeds 0", *recipes.get("omniglot").arms]


def test_listing_says_which_settings_were_changed(tmp_path):
    arms = {"das": {"last": {"recall@1": [0.5]}}}
    changes = record("cars196", {"epochs": 3, "learning_rate": 1.0}, arms=arms)
    (tmp_path / "cars196.json").write_text(json.dumps(changes))
    rows = rows_of(listing(tmp_path), "cars196")
    assert rows["measured with other learning_rate, epochs: seeds 0, 1, 2"] == []
    assert rows["das"] == ["87.84", "50.00", "-", "-"]
    (tmp_path / "cars196.json").write_text(json.dumps({**changes, "data": {"subset": True}}))
    assert [f"{PART}; with other learning_rate, epochs: seeds 0, 1, 2"] in lines_of(listing(tmp_path), "cars196")


def test_listing_compares_a_record_with_the_recipe_as_it_is_now(tmp_path):
    # Made with what was then the recipe, so the record itself knows of no change.
    old = record("cars196", {"learning_rate": 1.0, "summary": "as it was called"})
    old["recipe"]["arms"]["das"]["clip_norm"] = 9.0
    (tmp_path / "cars196.json").write_text(json.dumps(old))
    assert "measured with other learning_rate, clip_norm: seeds 0, 1, 2" in rows_of(listing(tmp_path), "cars196")


def test_listing_refuses_a_record_of_another_format(tmp_path):
    (tmp_path / "cars196.json").write_text(json.dumps(record("cars196", format=2)))
    with pytest.raises(ValueError, match=r"cars196\.json has format 2"):
        listing(tmp_path)
