"""DAS where training can be carried to its end on a CPU: a linear embedding of frozen features.

    python benchmarks/das_linear.py cars196 --data-dir PATH --subset --weights FILE --output runs/das_linear

A backbone turns random crops of the training images into features, once. Then a linear layer with unit-length outputs
is trained on them as the recipes train an encoder: the same batches (56 classes x 2 images), losses, miners, DAS
and Adam, at a constant rate. A run takes seconds, so that every arm gets the same thorough tuning:

1. Every arm is trained once at each of RATES without a fifth of the training classes. The rate and the number of steps
   with the best MAP@R on these classes are the arm's.
2. Every arm is trained with its rate on all training classes, with several seeds. The test classes are looked at here
   for the first time: after the arm's number of steps, and, to show that the curve has levelled off, all along.

Finished runs are kept in OUTPUT/runs.json; the same command goes on where it was stopped. The tables are printed and
written to OUTPUT/tables.md.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import time
from typing import Any

import numpy as np

EMBEDDING_DIM = 128
CLASSES, IMAGES = 56, 2
PARTS = 12
"""A run is evaluated so many times, at equal distances."""
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
LOSSES = {
    "multi_similarity": "multi-similarity",
    "margin": "margin, distance-weighted",
    "triplet": "triplet, distance-weighted",
}
SETTINGS: dict[str, dict[str, Any] | None] = {
    "no DAS": None,
    "DAS": {},
    "plain copies": {"scale_range": (1.0, 1.0), "shift_scale": 0.0},
    "T = 1": {"num_produced": 1},
    "T = 8": {"num_produced": 8},
    "K = 64": {"top_k": 64},
    "Z = 1": {"bank_size": 1},
    "scales in [0.5, 2]": {"scale_range": (0.5, 2.0)},
    "shifts of 0.5": {"shift_scale": 0.5},
    "with gradient": {"detach": False},
}
"""What arms change of DAS's defaults: T = 3, K = 4, Z = 10, scales in [0.99, 1.01], shifts of 0.01, no gradient."""
METRICS = ("recall@1", "map@r")
History = dict[str, list[float]]
"""Metrics of an untrained embedding, then of each twelfth part of its training."""


@dataclasses.dataclass(frozen=True)
class Features:
    """Features `(n, channels)` float32 of images and their classes `(n,)`."""

    values: np.ndarray
    labels: np.ndarray

    def of(self, classes: np.ndarray) -> "Features":
        """Those of some classes."""
        rows = np.isin(self.labels, classes)
        return Features(self.values[rows], self.labels[rows])


@dataclasses.dataclass(frozen=True)
class Data:
    """Features of random crops of the training images, and of the centers of training and test images."""

    crops: Features
    train: Features
    test: Features


def load_features(options: argparse.Namespace) -> Data:
    """Reads the features from OUTPUT, or makes them."""
    path = options.output / "features.npz"
    names = ("benchmark", "subset", "backbone", "backbone_options", "input_size", "views")
    identity = json.dumps({name: getattr(options, name) for name in names})
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"partial-{path.name}")
        np.savez(aside, identity=identity, **make_features(options))
        os.replace(aside, path)
    with np.load(path) as saved:
        if str(saved["identity"]) != identity:
            sys.exit(f"{path} holds features made with other options. Give another --output, or delete it")
        return Data(*(Features(saved[part], saved[f"{part}_labels"]) for part in ("crops", "train", "test")))


def make_features(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """The arrays of `Data` by name."""
    from keras_dml import backbones
    from keras_dml.data import ImagePreprocessing, PKBatches, RandomResizedCrop, load

    benchmark = load(options.benchmark, options.data_dir, subset=options.subset)
    size = options.input_size
    inputs = ImagePreprocessing(size, size * 9 // 8, 3)
    encoder = backbones.build(
        options.backbone,
        embedding_dim=None,
        input_shape=inputs.input_shape,
        normalize=False,
        options=json.loads(options.backbone_options),
        weights=options.weights,
    )
    augment = RandomResizedCrop(size, scale=(0.4, 1.0))
    batches = PKBatches(benchmark.train, inputs, CLASSES, IMAGES, augment=augment)
    crops, labels = [], []
    for epoch in range(options.views):
        print(f"features: {epoch} of {options.views} crops of each training image", flush=True)
        first = epoch * batches.steps_per_epoch
        for images, classes in batches.dataset(first, batches.steps_per_epoch):
            crops.append(encoder(images, training=False).numpy())
            labels.append(classes.numpy())
    return {
        "crops": np.concatenate(crops),
        "crops_labels": np.concatenate(labels),
        "train": encoder.predict(benchmark.train.dataset(inputs), verbose=0),
        "train_labels": benchmark.train.labels,
        "test": encoder.predict(benchmark.test.dataset(inputs), verbose=0),
        "test_labels": benchmark.test.labels,
    }


def draw(labels: np.ndarray, steps: int, seed: int) -> np.ndarray:
    """Rows of `steps` batches of 56 classes x 2 crops, with replacement, `(steps, 112)`."""
    random = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    classes = random.choice(np.flatnonzero(counts), (steps, CLASSES))[:, :, None]
    places = (random.random((steps, CLASSES, IMAGES)) * counts[classes]).astype(np.int64)
    rows: np.ndarray = order[starts[classes] + places].reshape(steps, -1)
    return rows


def train(
    crops: Features, checked: Features, loss: str, das: dict[str, Any] | None, rate: float, seed: int, steps: int
) -> History:
    """Trains one linear embedding of `crops`, evaluated on other classes, `checked`."""
    import keras
    import tensorflow as tf

    from keras_dml import MetricLearner, layers, losses
    from keras_dml.data.pipelines import prefetched
    from keras_dml.evaluation import evaluate_retrieval

    # Without this, a few hundred runs would keep the graphs of all of them.
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    classes, labels = np.unique(crops.labels, return_inverse=True)
    width = crops.values.shape[1]
    encoder = keras.Sequential(
        [keras.Input((width,)), keras.layers.Dense(EMBEDDING_DIM), keras.layers.UnitNormalization()]
    )
    augmentation = None if das is None else layers.DASAugmentation(len(classes), seed=seed, **das)
    model = MetricLearner(encoder, augmentation=augmentation)
    arguments = {"num_classes": len(classes)} if loss == "margin" else {}
    model.compile(keras.optimizers.Adam(rate), loss=losses.loss_class(loss)(**arguments), loss_optimizer=margins(loss))
    pool, targets = tf.constant(crops.values), tf.constant(labels.astype(np.int32))
    rows = draw(labels, steps, seed)

    def gather(row: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
        row = tf.ensure_shape(row, (CLASSES * IMAGES,))
        return tf.gather(pool, row), tf.gather(targets, row)

    history: History = {name: [] for name in METRICS}

    def measure(*_: Any) -> None:
        embeddings = encoder.predict(checked.values, batch_size=4096, verbose=0)
        found = evaluate_retrieval(embeddings, checked.labels, ks=(1,))
        history["recall@1"].append(float(found.recall[1]))
        history["map@r"].append(float(found.map_at_r))

    measure()
    model.fit(
        prefetched(tf.data.Dataset.from_tensor_slices(rows).map(gather)),
        steps_per_epoch=steps // PARTS,
        epochs=PARTS,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=measure)],
    )
    return history


def margins(loss: str) -> Any:
    """The optimizer of the margin loss's boundaries; its rate is the authors'."""
    import keras

    return keras.optimizers.Adam(5e-4) if loss == "margin" else None


class Runs:
    """Finished runs, kept in a file as they come.

    Args:
        options: The command line's.
        data: What is trained on.
    """

    def __init__(self, options: argparse.Namespace, data: Data) -> None:
        from keras_dml.evaluation import class_folds

        self.path = options.output / "runs.json"
        self.steps = options.steps // PARTS * PARTS
        self.found: dict[str, History] = json.loads(self.path.read_text()) if self.path.exists() else {}
        *_, fold = class_folds(data.train.labels, 5)
        held_out = fold.validation_classes
        kept = np.setdiff1d(data.train.labels, held_out)
        self.splits = {
            "held-out classes": (data.crops.of(kept), data.train.of(held_out)),
            "test classes": (data.crops, data.test),
        }

    def get(self, checked: str, loss: str, setting: str, rate: float, seed: int) -> History:
        """The metrics of one run, which is trained if it is not there."""
        key = f"{loss}, {setting}, rate {rate:g}, seed {seed}, {self.steps} steps, on {checked}"
        if key not in self.found:
            start = time.perf_counter()
            crops, others = self.splits[checked]
            self.found[key] = train(crops, others, loss, SETTINGS[setting], rate, seed, self.steps)
            aside = self.path.with_name(f"partial-{self.path.name}")
            aside.write_text(json.dumps(self.found, indent=0))
            os.replace(aside, self.path)
            best = max(self.found[key]["map@r"])
            print(f"{key}: best MAP@R {100 * best:.2f}, {time.perf_counter() - start:.0f} s", flush=True)
        return self.found[key]

    def tuned(self, loss: str, setting: str) -> tuple[float, int]:
        """The arm's rate, and after how many twelfths of the training to stop."""
        grid = [self.get("held-out classes", loss, setting, rate, 0)["map@r"][1:] for rate in RATES]
        rate, part = np.unravel_index(np.argmax(grid), np.shape(grid))
        return RATES[rate], int(part) + 1


def cell(values: Any, sign: bool = False) -> str:
    """Mean and sample standard deviation in per cent."""
    values = 100 * np.asarray(values)
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):{'+' if sign else ''}.1f}{spread}"


def table(runs: Runs, loss: str, settings: list[str], seeds: int) -> list[str]:
    """Each setting against the first, seed by seed, as lines of Markdown."""
    head = ["with", "rate", "steps", "Recall@1", "difference", "MAP@R", "difference", "MAP@R at the end"]
    lines = [
        "| " + " | ".join([f"{LOSSES[loss]} {head[0]}", *head[1:]]) + " |",
        "|---|" + "---:|" * (len(head) - 1),
    ]
    baseline: dict[str, np.ndarray] = {}
    for setting in settings:
        rate, part = runs.tuned(loss, setting)
        histories = [runs.get("test classes", loss, setting, rate, seed) for seed in range(seeds)]
        cells = [setting, f"{rate:g}", f"{part * runs.steps // PARTS}"]
        for name in METRICS:
            values = np.array([history[name][part] for history in histories])
            cells += [cell(values), cell(values - baseline[name], sign=True) if name in baseline else ""]
            baseline.setdefault(name, values)
        cells.append(cell([history["map@r"][-1] for history in histories]))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", help="a benchmark, such as cars196")
    parser.add_argument("--data-dir", help="folder with its images")
    parser.add_argument("--subset", action="store_true", help="accept data that are not the published protocol's")
    parser.add_argument("--backbone", default="mobilenet_v2", help="what makes the features (default: %(default)s)")
    parser.add_argument("--backbone-options", default='{"alpha": 0.35}', help="its options (default: %(default)s)")
    parser.add_argument("--weights", default="imagenet", help='"imagenet" or a weights file')
    parser.add_argument("--input-size", type=int, default=128)
    parser.add_argument("--views", type=int, default=8, help="random crops per training image (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1200, help="batches of a run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--losses", nargs="*", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/das_linear"))
    options = parser.parse_args()
    for name, least in (("views", 1), ("steps", PARTS), ("seeds", 1), ("losses", 1), ("settings", 1)):
        value = getattr(options, name)
        if (value if isinstance(value, int) else len(value)) < least:
            parser.error(f"--{name} needs at least {least}. Received: {value}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    runs = Runs(options, load_features(options))
    lines = []
    for loss in options.losses:
        lines += [*table(runs, loss, options.settings, options.seeds), ""]
        (options.output / "tables.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
