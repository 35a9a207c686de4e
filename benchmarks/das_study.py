"""What DAS adds beyond its controls, on three sets that a CPU can train on.

    python benchmarks/das_study.py glyphs   --output runs/das_study
    python benchmarks/das_study.py omniglot --data-dir PATH --output runs/das_study
    python benchmarks/das_study.py cars196  --data-dir PATH --weights FILE --output runs/das_study
    python benchmarks/das_study.py tables   --output runs/das_study

Each set has a small encoder of its own (`SETS`), trained from a pool of varied images, or of their features, by Adam
with a rate that falls to 0 on a cosine. Every arm, those without DAS included, gets the same search on training classes
held out (a fifth): first the rate, on RATES and beyond them until the best one is not at an edge; then the loss's
settings (`LOSSES`), at that rate. What gives the best MAP@R is then run with five seeds on all training classes, and
measured on the test classes: the only look at them.

Runs are kept in OUTPUT/SET.json as they come; the same command goes on where it was stopped. `tables` prints Markdown
and writes OUTPUT/das_study.json, the record that docs/das.md is made from, and a picture (`--record FILE`: another's).
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

PARTS = ("held out", "test")
RATES = (1e-3, 3e-3, 1e-2)
STEP = 10**0.5
"""Rates beyond the grid go on by this factor."""
SEEDS = 5
METRICS = ("recall@1", "map@r")
T_975 = 2.776
"""Student's t for 95 % and four degrees of freedom."""


@dataclasses.dataclass(frozen=True)
class Set:
    """What is trained on a data set.

    Args:
        classes: Classes of a batch.
        images: Images of each.
        steps: Batches of a run.
        encoder: Builds the encoder from the shape of an input.
    """

    classes: int
    images: int
    steps: int
    encoder: Callable[[tuple[int, ...]], Any]


def conv(shape: tuple[int, ...]) -> Any:
    """The network of the recipe `glyphs`."""
    from keras_dml import backbones
    from zoo.recipes import get

    recipe = get("glyphs")
    return backbones.build(recipe.backbone, recipe.embedding_dim, input_shape=shape, options=recipe.backbone_options)


def mlp(shape: tuple[int, ...]) -> Any:
    """784 - 256 - 64."""
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            *(keras.Input(shape), layers.Rescaling(1 / 255), layers.Flatten()),
            *(layers.Dense(256, "relu"), layers.Dense(64), layers.UnitNormalization()),
        ]
    )


def linear(shape: tuple[int, ...]) -> Any:
    """A linear embedding of frozen features."""
    import keras

    return keras.Sequential([keras.Input(shape), keras.layers.Dense(128), keras.layers.UnitNormalization()])


SETS = {
    "glyphs": Set(28, 4, 300, conv),
    "omniglot": Set(56, 2, 600, mlp),
    "cars196": Set(56, 2, 400, linear),
}
LOSSES: dict[str, tuple[dict[str, float], ...]] = {
    "multi_similarity": ({}, {"positive_weight": 4.0}, {"positive_weight": 16.0}, {"base": 0.6}),
    "proxy_anchor": ({}, {"alpha": 16.0}, {"positive_weight": 4.0}, {"delta": 0.2}),
    "triplet": ({}, {"margin": 0.1}, {"margin": 0.4}),
    "margin": ({}, {"margin": 0.1}, {"margin": 0.4}),
}
"""Losses, and the settings that every arm chooses from; the first are the defaults."""
TITLES = {
    "multi_similarity": "multi-similarity",
    "proxy_anchor": "Proxy-Anchor",
    "triplet": "triplet, distance-weighted",
    "margin": "margin, distance-weighted",
}
OURS = {"detach": False}
WIDE = {"detach": False, "scale_range": (0.5, 2.0), "shift_scale": 0.5}
COPIES = {"detach": False, "scale_range": (1.0, 1.0), "shift_scale": 0.0}


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way to train.

    Args:
        title: Its name in tables.
        das: What it changes of DAS's defaults (T = 3, K = 4, Z = 10, scales in [.99, 1.01], shifts of .01, detached);
            None for no DAS.
        identity_aware: See `MetricLearner`.
        weight: What both sums of the loss are multiplied by.
        layer: The augmentation, one of `LAYERS`.
        keys: What produced rows may be to other images: "both", "negatives" or "positives".
        produced: T over the training, one number for each equal part of it; empty leaves it as it is.
    """

    title: str
    das: dict[str, Any] | None = None
    identity_aware: bool = True
    weight: float | None = None
    layer: str = "das"
    keys: str = "both"
    produced: tuple[int, ...] = ()


ARMS = {
    "none": Arm("no DAS"),
    "das": Arm("DAS, as published", {}, identity_aware=False),
    "ours": Arm("DAS, attached and identity-aware", OURS),
    "copies": Arm("plain copies, attached and identity-aware", COPIES),
    "weight": Arm("weight alone: both sums times 4", weight=4.0),
    "wide": Arm("scales in [.5, 2], shifts of .5", WIDE),
    "wide_shift": Arm("shifts of 1", {**OURS, "shift_scale": 1.0}),
    "negatives": Arm("such rows, as negatives only", WIDE, keys="negatives"),
    "positives": Arm("such rows, as positives only", WIDE, keys="positives"),
    "foreign": Arm("shifts of .5 from other classes", {**OURS, "shift_scale": 0.5}, layer="foreign"),
    "annealed": Arm("such rows, T = 3, 1, 0 over the training", WIDE, produced=(3, 1, 0)),
    "hard": Arm("the hardest 3 of 12 such rows", {**WIDE, "num_produced": 12}, layer="hard"),
}
COLORS = {"das": "#d1242f", "copies": "#57606a", "weight": "#57606a"}
"""Of arms in the picture; those of ours are blue."""
WEIGHTED = ("multi_similarity", "proxy_anchor")
"""Losses that have the arm `weight`: those that sum inside a logarithm."""


def layers() -> dict[str, Any]:
    """Augmentations by name: DAS, and what may be better."""
    from keras import ops

    from keras_dml.layers import DASAugmentation

    class Foreign(DASAugmentation):
        """Shifts come from the bank of the class that is half a batch away."""

        def _produce(self, embeddings: Any, classes: Any, valid: Any, channels: Any, fill: Any) -> Any:
            half = classes.shape[0] // 2
            return super()._produce(embeddings, ops.roll(classes, half), valid, channels, ops.roll(fill, half))

    class Hard(DASAugmentation):
        """Of the produced rows of an anchor, a quarter is kept: those most like a row of another class."""

        def _produce(self, embeddings: Any, classes: Any, valid: Any, channels: Any, fill: Any) -> Any:
            produced = super()._produce(embeddings, classes, valid, channels, fill)
            others = ops.stop_gradient(ops.einsum("tbd,nd->tbn", produced, embeddings))
            others = ops.where(ops.equal(classes[:, None], classes[None, :]), -1.0, others)
            hardest = ops.top_k(ops.transpose(ops.max(others, axis=2)), self.num_produced // 4)[1]
            return ops.take_along_axis(produced, ops.transpose(hardest)[:, :, None], axis=0)

        def call(self, embeddings: Any, labels: Any, training: bool | None = None) -> Any:
            union, _ = super().call(embeddings, labels, training=training)
            return union, ops.tile(labels, (1 + self.num_produced // 4,)) if training else labels

    return {"das": DASAugmentation, "foreign": Foreign, "hard": Hard}


def build_model(
    encoder: Any, loss: str, settings: dict[str, float], arm: Arm, num_classes: int, rate: Any, seed: int
) -> Any:
    """A compiled learner."""
    import keras
    from keras import ops

    from keras_dml import MetricLearner, losses

    class OneSided(MetricLearner):
        """Produced rows are keys of one kind only."""

        def _loss_of(self, labels: Any, embeddings: Any, training: bool, ids: Any = None) -> Any:
            batch = losses.EmbeddingBatch.create(labels, embeddings, ids=ids, training=training)
            if ids is not None:
                rows = embeddings.shape[0]
                real = ops.arange(rows) < rows // 4
                # Cached properties: what is set is what losses read.
                kind = "positives" if arm.keys == "negatives" else "negatives"
                masked = ops.logical_and(getattr(batch, kind), real[None, :])
                batch = batch.cast("float32")
                batch.__dict__[kind] = masked
            return self.embedding_loss.compute(batch)

    augmentation = None
    if arm.das is not None:
        augmentation = layers()[arm.layer](num_classes, seed=seed, **arm.das)
    learner = MetricLearner if arm.keys == "both" else OneSided
    model = learner(encoder, augmentation=augmentation, identity_aware=arm.identity_aware and arm.das is not None)
    options: dict[str, Any] = dict(settings)
    if arm.weight is not None:
        for name in ("positive_weight", "negative_weight"):
            options[name] = arm.weight * options.get(name, 1.0)
    if loss in ("margin", "proxy_anchor"):
        options["num_classes"] = num_classes
    if loss == "proxy_anchor":
        options["seed"] = seed
    model.compile(keras.optimizers.Adam(rate), loss=losses.loss_class(loss)(**options))
    return model


@dataclasses.dataclass(frozen=True)
class Images:
    """Inputs `(n, ...)` and their classes `(n,)`."""

    values: np.ndarray
    labels: np.ndarray

    def of(self, classes: np.ndarray) -> "Images":
        """Those of some classes."""
        rows = np.isin(self.labels, classes)
        return Images(self.values[rows], self.labels[rows])


@dataclasses.dataclass(frozen=True)
class Data:
    """The pool that is trained on, and the training and test images as they are."""

    pool: Images
    train: Images
    test: Images


VIEWS = 8
"""Variations of each training image in the pool."""


def load(name: str, options: argparse.Namespace) -> Data:
    """Loads a set, or makes it and keeps it in OUTPUT."""
    path = options.output / f"{name}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"partial-{path.name}")
        np.savez(aside, **make(name, options))
        os.replace(aside, path)
    with np.load(path) as saved:
        return Data(*(Images(saved[part], saved[f"{part}_labels"]) for part in ("pool", "train", "test")))


def make(name: str, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """The arrays of `Data` by name."""
    from keras_dml import backbones, data
    from zoo.recipes import get

    benchmark = data.load(name, options.data_dir, subset=name == "cars196")
    if name == "cars196":
        inputs = data.ImagePreprocessing(224, 256, 3)
        augment: Any = data.RandomResizedCrop(224, scale=(0.4, 1.0))
        encoder = backbones.build(
            *("mobilenet_v2", None, "avg", inputs.input_shape, False, {"alpha": 0.35}), weights=options.weights
        )
    else:
        inputs = data.ImagePreprocessing(28, 28, 1)
        augment = data.RandomAffine(28, 1, **get("glyphs").augment_args)
        encoder = None

    def images(batches: Any) -> np.ndarray:
        if encoder is not None:
            return encoder.predict(batches, verbose=0)
        return np.concatenate([np.asarray(batch) for batch in batches]).round().astype(np.uint8)

    train, test = benchmark.train, benchmark.test
    pool, labels = [], []
    order = data.PKBatches(train, inputs, 56, 2, augment=augment)
    views = 2 if name == "cars196" else VIEWS
    for batch, classes in order.dataset(0, views * len(train) // 112):
        pool.append(images(batch[None]) if encoder is None else encoder(batch, training=False).numpy())
        labels.append(np.asarray(classes))
    return {
        "pool": np.concatenate(pool),
        "pool_labels": np.concatenate(labels),
        "train": images(train.dataset(inputs)),
        "train_labels": train.labels,
        "test": images(test.dataset(inputs)),
        "test_labels": test.labels,
    }


def train(
    pool: Images, checked: Images, task: Set, build: Callable[..., Any], arm: Arm, rate: float, seed: int
) -> dict[str, float]:
    """Trains one encoder; what it reaches on `checked`, of other classes."""
    import keras
    import tensorflow as tf

    from keras_dml.evaluation import evaluate_retrieval

    # Without this, a few hundred runs would keep the graphs of all of them.
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    classes, labels = np.unique(pool.labels, return_inverse=True)
    encoder = task.encoder(pool.values.shape[1:])
    schedule = keras.optimizers.schedules.CosineDecay(rate, task.steps)
    model = build(encoder, arm=arm, num_classes=len(classes), rate=schedule, seed=seed)
    rows = batches_of(labels, task, seed)
    size = rows.shape[1]

    def gather(row: Any) -> Any:
        row = tf.ensure_shape(row, (size,))
        return tf.cast(tf.gather(values, row), tf.float32), tf.gather(targets, row)

    values, targets = tf.constant(pool.values), tf.constant(labels.astype(np.int32))
    batches = tf.data.Dataset.from_tensor_slices(rows).map(gather).prefetch(2)
    parts = arm.produced or (None,)
    for part, produced in enumerate(parts):
        if produced == 0:
            model.augmentation = None
        elif produced is not None:
            model.augmentation.num_produced = produced
        # What was traced has the T of before.
        model.make_train_function(force=True)
        first, last = (task.steps * place // len(parts) for place in (part, part + 1))
        model.fit(batches.skip(first).take(last - first), epochs=1, verbose=0)
    embeddings = np.concatenate(
        [
            encoder(checked.values[start : start + 2048].astype(np.float32), training=False).numpy()
            for start in range(0, len(checked.values), 2048)
        ]
    )
    found = evaluate_retrieval(embeddings, checked.labels, ks=(1,))
    return {"recall@1": float(found.recall[1]), "map@r": float(found.map_at_r)}


def batches_of(labels: np.ndarray, task: Set, seed: int) -> np.ndarray:
    """Rows of all batches of a run, `(steps, classes * images)`."""
    random = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    shape = (task.steps, task.classes)
    chosen = np.stack([random.choice(len(counts), task.classes, replace=False) for _ in range(task.steps)])[:, :, None]
    places = (random.random((*shape, task.images)) * counts[chosen]).astype(np.int64)
    rows: np.ndarray = order[starts[chosen] + places].reshape(task.steps, -1)
    return rows


class Runs:
    """Finished runs of a set, kept in a file as they come."""

    def __init__(self, name: str, data: Data | None, output: pathlib.Path) -> None:
        self.name, self.path = name, output / f"{name}.json"
        self.found: dict[str, dict[str, float]] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.splits: dict[str, tuple[Images, Images]] = {}
        if data is not None:
            from keras_dml.evaluation import class_folds

            *_, fold = class_folds(data.train.labels, 5)
            kept = np.setdiff1d(data.train.labels, fold.validation_classes)
            self.splits["held out"] = data.pool.of(kept), data.train.of(fold.validation_classes)
            self.splits["test"] = data.pool, data.test

    def get(
        self, part: str, loss: str, arm: str, settings: dict[str, float], rate: float, seed: int
    ) -> dict[str, float]:
        """The metrics of one run, which is trained if it is not there."""
        key = f"{loss}, {arm}, {json.dumps(settings)}, rate {rate:.3g}, seed {seed}, {part}"
        if key not in self.found:
            if not self.splits:
                raise KeyError(f"{self.path} lacks a run: {key}")
            start = time.perf_counter()
            build = functools.partial(build_model, loss=loss, settings=settings)
            self.found[key] = train(*self.splits[part], SETS[self.name], build, ARMS[arm], rate, seed)
            aside = self.path.with_name(f"partial-{self.path.name}")
            aside.write_text(json.dumps(self.found, indent=0))
            os.replace(aside, self.path)
            values = ", ".join(f"{100 * value:.2f}" for value in self.found[key].values())
            print(f"{self.name}: {key}: {values}, {time.perf_counter() - start:.1f} s", flush=True)
        return self.found[key]

    def tuned(self, loss: str, arm: str) -> tuple[float, dict[str, float]]:
        """The arm's rate and settings."""
        rates = list(RATES)

        def score(rate: float, settings: dict[str, float]) -> float:
            return self.get("held out", loss, arm, settings, rate, 0)["map@r"]

        default, *others = LOSSES[loss]
        while True:
            best = max(rates, key=lambda rate: score(rate, default))
            if best == max(rates):
                rates.append(best * STEP)
            elif best == min(rates):
                rates.append(best / STEP)
            else:
                break
        return best, max((default, *others), key=lambda settings: score(best, settings))

    def measured(self, loss: str, arm: str) -> dict[str, Any]:
        """An arm's choice and what it reaches on the test classes, over seeds."""
        rate, settings = self.tuned(loss, arm)
        runs = [self.get("test", loss, arm, settings, rate, seed) for seed in range(SEEDS)]
        return {"rate": rate, "settings": settings, **{name: [run[name] for run in runs] for name in METRICS}}


def arms_of(loss: str, given: list[str]) -> list[str]:
    """The arms among `given` that a loss has."""
    return [arm for arm in given if arm != "weight" or loss in WEIGHTED]


def tables(record: dict[str, Any], only: str | None = None, loss: str | None = None) -> str:
    """Results in Markdown: each arm, against no DAS and against plain copies, seed by seed.

    Args:
        record: By set, loss and arm.
        only: The one set to show.
        loss: The one loss to show.
    """
    parts = []
    for name, losses in record.items():
        for found in losses:
            if only in (None, name) and loss in (None, found):
                parts.append(_table(f"{name}, {TITLES[found]}", losses[found]))
    return "\n\n".join(parts)


def _table(head: str, arms: dict[str, Any]) -> str:
    columns = ["rate", "settings", "Recall@1", "MAP@R", "MAP@R, minus no DAS", "MAP@R, minus copies"]
    lines = ["| " + " | ".join([head, *columns]) + " |", "|---|---:|---|" + "---:|" * 4]
    for arm, found in arms.items():
        settings = ", ".join(f"{key} {value:g}" for key, value in found["settings"].items()) or "default"
        cells = [ARMS[arm].title, f"{found['rate']:.2g}", settings]
        for metric in METRICS:
            values = 100 * np.array(found[metric])
            cells.append(f"{values.mean():.1f} ± {values.std(ddof=1):.1f}")
        for control in ("none", "copies"):
            known = control in arms and arm not in ("none", control)
            cells.append("{:+.1f} [{:.1f}, {:.1f}]".format(*difference(found, arms[control])) if known else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def difference(arm: dict[str, Any], control: dict[str, Any]) -> tuple[float, float, float]:
    """Mean of the paired differences of MAP@R over five seeds, in points, and its 95 % interval."""
    values = 100 * (np.array(arm["map@r"]) - np.array(control["map@r"]))
    half = T_975 * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(np.mean(values) - half), float(np.mean(values) + half)


def draw(record: dict[str, Any], path: pathlib.Path) -> None:
    """Draws every arm's difference to no DAS, with its interval: a panel for each set and loss."""
    from matplotlib.figure import Figure

    panels = [(name, loss, arms) for name, losses in record.items() for loss, arms in losses.items() if "none" in arms]
    shown = [arm for arm in ARMS if arm != "none" and any(arm in arms for _, _, arms in panels)]
    losses = [loss for loss in LOSSES if any(loss == found for _, found, _ in panels)]
    sets = list(record)
    figure = Figure(
        figsize=(3.1 * len(losses) + 2.6, (0.2 * len(shown) + 0.9) * len(sets)), layout="constrained", dpi=110
    )
    grid = figure.subplots(len(sets), len(losses), squeeze=False, sharey=True)
    for axes in grid.flat:
        axes.set_visible(False)
    for name, loss, arms in panels:
        axes = grid[sets.index(name)][losses.index(loss)]
        axes.set_visible(True)
        axes.axvline(0, color="#57606a", linewidth=1)
        for row, arm in enumerate(shown):
            if arm in arms:
                mean, low, high = difference(arms[arm], arms["none"])
                axes.plot([low, high], [row, row], color=COLORS.get(arm, "#0969da"), linewidth=2)
                axes.plot([mean], [row], "o", color=COLORS.get(arm, "#0969da"), markersize=4)
        axes.set_yticks(range(len(shown)), [ARMS[arm].title for arm in shown], fontsize=7)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_title(f"{name}, {TITLES[loss]}", fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(axis="x", color="#d1d9e0")
        axes.set_axisbelow(True)
    figure.supxlabel("MAP@R minus that without DAS, in points: mean and 95 % interval over five seeds", fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*SETS, "tables"))
    parser.add_argument("--data-dir", help="folder with the images of Omniglot or CARS196")
    parser.add_argument("--weights", default="imagenet", help="ImageNet weights of MobileNetV2 of width .35 (cars196)")
    parser.add_argument("--losses", nargs="*", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/das_study"))
    parser.add_argument("--record", type=pathlib.Path, help="with tables: a record to show, instead of OUTPUT's runs")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if options.name == "tables":
        if options.record is not None:
            print(tables(json.loads(options.record.read_text())))
            return
        record: dict[str, Any] = {}
        for name in SETS:
            runs = Runs(name, None, options.output)
            for loss in LOSSES:
                for arm in arms_of(loss, list(ARMS)):
                    try:
                        record.setdefault(name, {}).setdefault(loss, {})[arm] = runs.measured(loss, arm)
                    except KeyError as missing:
                        print(f"left out: {name}, {loss}, {arm} ({missing})")
            record[name] = {loss: arms for loss, arms in record[name].items() if arms}
        (options.output / "das_study.json").write_text(json.dumps(record, indent=1) + "\n")
        draw(record, options.output / "das_study.png")
        print(tables(record))
        return
    runs = Runs(options.name, load(options.name, options), options.output)
    for arm in options.arms:
        for loss in options.losses:
            if arm in arms_of(loss, options.arms):
                runs.measured(loss, arm)


if __name__ == "__main__":
    main()
