"""Fields of a recipe for today's training: what they do, against loops where they compute, and what is refused."""

import dataclasses
import json
import math
import pathlib
import re
import shlex

import keras
import numpy as np
import pytest

from keras_dml.data import LayerAugmentation, load
from keras_dml.evaluation import class_folds, evaluate_retrieval
from zoo import building, recipes, reproduce, training
from zoo.averaging import averaged, take_average
from zoo.overrides import override
from zoo.recipe import Recipe
from zoo.runs import open_run
from zoo.schedules import schedule
from zoo.show import resolved

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "recipes.md"
SMALL = {"epochs": 3, "backbone_options": {"widths": (4,)}, "steps_per_epoch": 3, "lr_milestones": (), "das": None}
# The package's own loss, which runs on every backend.
SMALL |= {"loss": "multi_similarity"}


def digits(**changes):
    recipe = recipes.get("digits")
    return dataclasses.replace(recipe, **{**SMALL, "arms": {"one": {}}, "exported": "one", **changes})


def built(recipe, steps=3):
    keras.utils.set_random_seed(0)
    encoder = building.build_encoder(recipe)
    return building.build_model(recipe, encoder, 5, steps, 0)


def batch(seed=0):
    generator = np.random.default_rng(seed)
    return generator.uniform(0, 255, (8, 8, 8, 1)).astype("float32"), np.repeat(np.arange(4), 2)


# ---------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("assignment", "field", "value"),
    [
        ("precision=mixed_bfloat16", "precision", "mixed_bfloat16"),
        ("optimizer=adamw", "optimizer", "adamw"),
        ("lr_warmup_epochs=1", "lr_warmup_epochs", 1.0),
        ("trainable=2", "trainable", 2),
        ("trainable=head", "trainable", "head"),
        ("lora_rank=4", "lora_rank", 4),
        ("ema=0.99", "ema", 0.99),
        ("augment=RandAugment", "augment", "RandAugment"),
        ("augment=['random_affine', {'name': 'RandomFlip'}]", "augment", ("random_affine", {"name": "RandomFlip"})),
        ("augment=None", "augment", None),
        ("widths=(2, 4)", "widths", (2, 4)),
        ("metric=euclidean", "metric", "euclidean"),
        ("embedding_init=torch", "embedding_init", "torch"),
    ],
)
def test_every_field_is_set_and_shown(assignment, field, value):
    before = recipes.get("digits")
    recipe = override(before, [assignment])
    assert getattr(recipe, field) == value
    line = next(line for line in resolved(before, recipe).splitlines() if line.split()[:1] == [field])
    assert repr(value) in line
    assert line.endswith(("command line", "default (zoo/recipe.py)"))
    assert json.loads(json.dumps(recipe.to_dict()))[field] == json.loads(json.dumps(value))


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["precision=bfloat16"], "precision of a recipe: 'bfloat16'. Did you mean 'mixed_bfloat16'"),
        (["lr_schedule=cosin"], "lr_schedule of a recipe: 'cosin'. Did you mean 'cosine'"),
        (["optimizer=adamx"], "optimizer 'adamx'. Did you mean 'adam"),
        (["optimizer=adamw", "optimizer_args.weight_deca=1"], "'weight_deca'. Did you mean 'weight_decay'"),
        (["lr_schedule=cosine"], 'lr_milestones=(4, 5) have a meaning for lr_schedule="steps" only'),
        (["lr_warmup_epochs=6"], "must reach its full height before the training ends"),
        (["lr_warmup_epochs=-1"], "`lr_warmup_epochs` must be a finite number of at least 0"),
        (["trainable=0"], '`trainable` must be "all", "head" or a number of last blocks. Received: trainable=0'),
        (["trainable=tail"], "Received: trainable='tail'"),
        (["trainable=1.5"], "expected int. Received: 1.5"),
        (["trainable=head", "embedding_dim=None"], "there is none: embedding_dim=None"),
        (["lora_rank=0"], "`lora_rank` of a recipe must be at least 1"),
        (["lora_rank=4"], "LoRA needs a transformer of keras-hub as backbone. Received: lora_rank=4"),
        (["lora_rank=4", "trainable=1"], "LoRA freezes the backbone itself"),
        (["ema=1.0"], "`ema`, a momentum, must lie between 0 and 1"),
        (["augment=RandAugmen"], "augmentation 'RandAugmen'. Did you mean 'RandAugment'"),
        (["augment=RandomFlip", "augment_args.mod=vertical"], "argument of RandomFlip 'mod'. Did you mean 'mode'"),
        (["augment=['RandomFlip']", "augment_args.mode=vertical"], "each has its own arguments"),
        (
            ["augment=['RandomFlip', 'random_affine']"],
            "random_affine makes an image of the encoder's size, so it comes",
        ),
        (["augment=[{'mode': 'vertical'}]"], "one or more names and dicts of `name`"),
        (
            ["augment=['RandomCrop']", "arms.baseline.augment=CenterCrop", "arms.das.augment=CenterCrop"],
            "Arm 'baseline'",
        ),
        (["augment=Resizing", "augment_args.height=4", "augment_args.width=4"], "does not make images of 8 x 8 x 1"),
        (["metric=cosin"], "metric of a recipe: 'cosin'. Did you mean 'cosine'"),
        (["embedding_init=troch"], "embedding_init 'troch'. Did you mean 'torch'"),
        (["widths=(2, 2)"], "`widths` must be different positive numbers"),
        (["widths=(2, 64)"], "`widths` must be at most the embedding width. Received: widths=(2, 64)"),
    ],
)
def test_what_does_not_fit_is_refused(assignments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        building.validate(override(recipes.get("digits"), assignments))


def test_more_blocks_than_there_are():
    with pytest.raises(ValueError, match=r"blocks\. Received: trainable=99"):
        building.build_encoder(digits(trainable=99))


# ---------------------------------------------------------------------------------------------- learning rates


def rates(recipe, steps, count):
    found = schedule(recipe, recipe.learning_rate, steps)
    return [float(found(step)) if callable(found) else found for step in range(count)]


def test_cosine_with_warm_up_against_the_formula():
    recipe = digits(lr_schedule="cosine", lr_warmup_epochs=0.5, epochs=5, learning_rate=0.2)
    steps, warmup, total = 4, 2, 20
    expected = []
    for t in range(total):
        if t < warmup:
            expected.append(0.2 * (t + 1) / warmup)
        else:
            expected.append(0.1 * (1 + math.cos(math.pi * (t - warmup) / (total - warmup))))
    np.testing.assert_allclose(rates(recipe, steps, total), expected, rtol=1e-5, atol=1e-8)
    assert rates(recipe, steps, 30)[20:] == pytest.approx([0.0] * 10, abs=1e-8)


def test_steps_and_constant_with_warm_up():
    recipe = digits(lr_milestones=(2,), lr_gamma=0.1, lr_warmup_epochs=1.0, learning_rate=1.0)
    assert rates(recipe, 2, 6) == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.1, 0.1])
    assert rates(digits(lr_schedule="constant", lr_warmup_epochs=1, learning_rate=1.0), 2, 4) == [0.5, 1.0, 1.0, 1.0]
    # As ever where nothing new is asked for: a number, or Keras's own schedule.
    assert schedule(digits(), 0.25, 3) == 0.25
    plain = schedule(digits(lr_milestones=(1,)), 0.25, 3)
    assert type(plain) is keras.optimizers.schedules.PiecewiseConstantDecay


def test_schedules_survive_saving():
    warm = schedule(digits(lr_schedule="cosine", lr_warmup_epochs=1, learning_rate=0.3), 0.3, 3)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(warm))
    assert [float(again(t)) for t in range(9)] == [float(warm(t)) for t in range(9)]


def test_the_head_follows_the_same_schedule():
    recipe = digits(loss="proxy_anchor", loss_learning_rate=1.0, learning_rate=0.1, lr_warmup_epochs=1)
    model = built(recipe)
    assert float(model.loss_optimizer.learning_rate) == pytest.approx(1 / 3)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1 / 3)


# ---------------------------------------------------------------------------------------------- optimizers


def test_decoupled_decay_of_the_encoder_alone():
    """One step of AdamW: `w (1 - rate decay) - rate g / (|g| + epsilon)`, Loshchilov and Hutter, ICLR 2019."""
    args = {"weight_decay": 0.1, "epsilon": 1e-12}
    recipe = digits(optimizer="adamw", optimizer_args=args, learning_rate=0.01, loss="proxy_anchor")
    recipe = dataclasses.replace(recipe, loss_learning_rate=0.01)
    model = built(recipe)
    before = [np.array(variable) for variable in model.encoder.trainable_variables]
    proxies = np.array(model.embedding_loss.trainable_variables[0])
    model.train_on_batch(*batch())
    kernel = next(i for i, v in enumerate(model.encoder.trainable_variables) if v.path.endswith("embedding/kernel"))
    after = np.array(model.encoder.trainable_variables[kernel])
    np.testing.assert_allclose(np.abs(after - before[kernel] * (1 - 0.001)), 0.01, rtol=1e-3)
    moved = np.array(model.embedding_loss.trainable_variables[0]) - proxies
    np.testing.assert_allclose(np.abs(moved), 0.01, rtol=1e-3)


def test_the_average_of_weights_against_loops():
    plain, averaging = built(digits()), built(digits(ema=0.7))
    expected = None
    for step in range(5):
        for model in (plain, averaging):
            model.train_on_batch(*batch(step))
        weights = [np.array(variable, "float64") for variable in plain.encoder.trainable_variables]
        if expected is None:
            expected = weights
        else:
            expected = [0.7 * mean + 0.3 * new for mean, new in zip(expected, weights, strict=True)]
    raw = [np.array(variable) for variable in averaging.encoder.trainable_variables]
    for one, other in zip(raw, plain.encoder.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)
    with averaged(averaging):
        inside = [np.array(variable) for variable in averaging.encoder.trainable_variables]
    for mean, found in zip(expected, inside, strict=True):
        np.testing.assert_allclose(found, mean, rtol=1e-4, atol=1e-6)
    for one, other in zip(raw, averaging.encoder.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)
    for _ in range(2):
        take_average(averaging)
        for one, other in zip(inside, averaging.encoder.trainable_variables, strict=True):
            np.testing.assert_array_equal(one, other)


class Stopped(Exception):
    pass


class Stop(training.Watcher):
    def __init__(self, at):
        self.at = at

    def on_epoch(self, epochs, logs):
        if epochs == self.at:
            raise Stopped


@pytest.mark.parametrize("stop", [2, 3])
def test_a_run_with_average_and_keras_s_augmentation_goes_on_bit_for_bit(stop, tmp_path):
    recipe = digits(
        ema=0.9,
        augment=("random_affine", {"name": "RandomBrightness", "factor": 0.3}),
        optimizer="adamw",
        lr_schedule="cosine",
        lr_warmup_epochs=0.5,
        trainable=1,
        loss="matryoshka",
        loss_args={"loss": "proxy_anchor", "widths": (2, 4, 16)},
        embedding_dim=16,
    )
    benchmark = load("digits")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    training.train(recipe, "one", 1, benchmark, whole)
    with pytest.raises(Stopped):
        training.train(recipe, "one", 1, benchmark, stopped, Stop(stop))
    training.train(recipe, "one", 1, benchmark, stopped)
    for name in ("history.json", "metrics.json"):
        one, other = (json.loads((folder / name).read_text()) for folder in (whole, stopped))
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    one, other = (np.load(folder / "test_embeddings.npz")["embeddings"] for folder in (whole, stopped))
    np.testing.assert_array_equal(one, other)
    # What the last epoch saw is what is kept, at every width.
    history, metrics = (json.loads((whole / f"{name}.json").read_text()) for name in ("history", "metrics"))
    for name in ("recall@1", "map@r", "d2_recall@1", "d4_map@r"):
        assert history[f"val_{name}"][-1] == pytest.approx(metrics["last"][name], abs=1e-6)


# ---------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_precision(precision):
    model = built(digits(precision=precision, loss="proxy_anchor"))
    assert keras.config.dtype_policy().name == "float32"
    half = precision.removeprefix("mixed_")
    convolutions = [layer for layer in model.encoder.layers if "conv" in layer.name]
    assert {layer.compute_dtype for layer in convolutions} == {half}
    assert {model.encoder.get_layer(name).compute_dtype for name in ("embedding", "normalization")} == {"float32"}
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (half == "float16")
    images, labels = batch()
    assert keras.backend.standardize_dtype(model(images).dtype) == "float32"
    history = model.fit(images, labels, epochs=3, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    # Images reach the encoder as they are: what half precision rounds, it rounds after that.
    same = keras.Sequential([keras.layers.Input((8, 8, 1)), keras.layers.Flatten(dtype="float32")])
    recipe = digits(precision=precision, das=None)
    np.testing.assert_array_equal(building.build_model(recipe, same, 5, 3, 0)(images), images.reshape(8, 64))


def test_the_policy_is_put_back_after_an_error():
    with pytest.raises(ValueError, match="pooling"):
        building.build_encoder(digits(precision="mixed_float16", pooling="class_token"))
    assert keras.config.dtype_policy().name == "float32"


# ---------------------------------------------------------------------------------------------- augmentation, widths


def test_augmentations_in_a_row():
    augment = building.build_augment(digits(augment="RandAugment", augment_args={"num_ops": 1}, channels=3))
    assert isinstance(augment, LayerAugmentation)
    assert augment.first is None
    both = building.build_augment(digits(augment=("random_resized_crop", "RandomFlip"), channels=3))
    assert type(both.first).__name__ == "RandomResizedCrop"
    image, seed = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8), np.array([1, 2])
    for each in (augment, both):
        assert each(image, seed).shape == (8, 8, 3)


def test_every_width_is_in_the_record_and_the_tables(tmp_path, capsys):
    arguments = ["digits", "--output", str(tmp_path), "--epochs", "1", "--seed", "0", "--set", "lr_milestones=()"]
    settings = {
        "arms": {"plain": {"das": None}, "narrow": {"loss": "matryoshka"}},
        "exported": "narrow",
        "arms.narrow.loss_args": {"loss": "multi_similarity", "widths": (2, 8)},
        "arms.plain.widths": (4,),
        "select_epoch": False,
        "steps_per_epoch": 3,
        "ks": (1, 2),
    }
    for key, value in settings.items():
        arguments += ["--set", f"{key}={value}"]
    assert reproduce.main(arguments) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    for arm, widths in (("plain", (4,)), ("narrow", (2,))):
        embeddings = open_run(tmp_path / arm / "seed-0").embeddings()
        for width in widths:
            cut = embeddings.vectors[:, :width]
            cut = cut / np.linalg.norm(cut, axis=1, keepdims=True)
            expected = evaluate_retrieval(cut, embeddings.labels, ks=(1, 2))
            values = record["arms"][arm]
            for when in ("untrained", "last", "best_test"):
                assert f"d{width}_recall@2" in values[when]
            assert values["last"][f"d{width}_recall@1"] == [pytest.approx(float(expected.recall[1]), abs=1e-6)]
            assert values["last"][f"d{width}_map@r"] == [pytest.approx(float(expected.map_at_r), abs=1e-6)]
    assert "d8_recall@1" not in record["arms"]["narrow"]["last"], "that is the whole embedding"
    shown = capsys.readouterr().out
    assert "Recall@1, d=2" in shown
    assert "MAP@R, d=4" in shown


def test_widths_of_a_recipe():
    assert digits().evaluated_widths == ()
    inner = {"loss": "matryoshka", "loss_args": {"loss": "multi_similarity", "widths": (2, 16)}, "embedding_dim": 16}
    assert digits(**inner).evaluated_widths == (2,)
    assert digits(**inner, widths=(4,)).evaluated_widths == (4,)
    assert {field.name for field in dataclasses.fields(Recipe)} >= {"widths", "precision", "lora_rank", "ema"}


COMMANDS = re.findall(r"^keras-dml reproduce .*$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_documentation_are_accepted(line):
    words = shlex.split(line, comments=True)[2:]
    building.validate(reproduce._recipe(reproduce._parser().parse_args(words)))


@pytest.mark.parametrize("changes", [{"ema": 0.6}, {"ema": 0.6, "frozen_batch_norm": True, "trainable": "head"}])
def test_the_epoch_that_held_out_classes_choose_is_kept_with_its_average(changes, tmp_path):
    benchmark = load("digits")
    fold = next(iter(class_folds(benchmark.train.labels, 2)))
    training.train(digits(**changes, learning_rate=0.01), "one", 0, benchmark, tmp_path, fold=fold)
    history = json.loads((tmp_path / "history.json").read_text())
    run = open_run(tmp_path)
    held_out = benchmark.train.subset(fold.validation)
    found = evaluate_retrieval(run.image_encoder().embed(held_out), held_out.labels)
    assert float(found.map_at_r) == pytest.approx(max(history["val_map@r"]), abs=1e-6)
