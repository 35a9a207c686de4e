"""PDDM on Omniglot: does it learn from scratch, how fast, and is its score better than the distance?

    python benchmarks/pddm_omniglot.py --data omniglot.npz [--output runs/pddm_omniglot] [--arms triplet pddm ...]

Needs Omniglot in any form that `keras_dml.data.load("omniglot", ...)` takes. The 964 background characters train, the
659 evaluation characters test, at 28 x 28, from random weights. All arms have the same small conv net (0.27 million
weights, embedding of 64), the same batches (16 characters x 4 drawings) for a seed, the same number of steps and Adam
at the same rate for encoder and unit. One run takes one to two minutes on one core. The same command goes on where it
was interrupted, and shows the table and the curves again once all runs are there.

`recall@1` and `map@r` rank by Euclidean distance on all 13,180 test drawings unless the column says otherwise.
The curves, and retrieval by score among all drawings, use every fourth test character.
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from keras_dml import MetricLearner
from keras_dml.backbones.small_conv import small_conv
from keras_dml.callbacks import RetrievalEvaluation
from keras_dml.data import ImagePreprocessing, PKBatches, load
from keras_dml.evaluation import evaluate_retrieval, nearest_neighbors
from keras_dml.layers import DASAugmentation, PDDMUnit
from keras_dml.losses import DoubleHeaderHinge, EmbeddingBatch, TripletLoss

SIZE, DIM, CLASSES, PER_CLASS, EVERY = 28, 64, 16, 4, 100
RATE = 1e-3
SHORTLIST = 50
ARMS = {
    "triplet": "triplet, Euclidean semi-hard",
    "distance": "quadruplets mined by distance, E_e alone",
    "pddm-triplet": "PDDM, triplets",
    "pddm": "PDDM, quadruplets",
    "pddm-das": "PDDM, quadruplets, and DAS",
    "pddm-das-attached": "PDDM, quadruplets, and DAS with gradient",
    "pddm-published": "PDDM, one quadruplet per batch",
    "pddm-anchor": "PDDM, hardest quadruplet of each anchor",
    "pddm-no-distance": "PDDM, quadruplets, without E_e",
    "pddm-fast-unit": "PDDM, quadruplets, unit at ten times the rate",
}
LOSSES = {
    "distance": {"alpha": 1.0, "weight": 0.0},
    "pddm-triplet": {"triplets": True},
    "pddm": {},
    "pddm-das": {},
    "pddm-das-attached": {},
    "pddm-published": {"mining": "batch"},
    "pddm-anchor": {"mining": "anchor"},
    "pddm-no-distance": {"weight": 0.0},
    "pddm-fast-unit": {},
}


class NegativeDistance(keras.layers.Layer):
    """Stands in for the unit: minus the squared distance, which makes E_m with a margin of 1 the paper's E_e."""

    def call(self, pair):
        return -tf.reduce_sum((pair[0] - pair[1]) ** 2, axis=1)

    def pairwise(self, x, y=None, block_size=None):
        # Of unit vectors.
        return 2 * tf.matmul(x, x, transpose_b=True) - 2


class CollapseGuard(keras.callbacks.Callback):
    """Adds the loss's statistics on one fixed batch of test drawings to the logs."""

    def __init__(self, images, labels):
        super().__init__()
        self.images, self.labels = images, labels

    def on_epoch_end(self, epoch, logs=None):
        loss = self.model.embedding_loss
        if self.model.pair_scorer is None:
            return
        embeddings = self.model.encoder(self.images, training=False)
        batch = EmbeddingBatch.create(self.labels, embeddings, pair_scorer=self.model.pair_scorer)
        statistics = loss.compute(batch).statistics
        logs.update({f"val_{name}": float(value) for name, value in statistics.items()})


def prepare(path):
    """Both splits with images `(n, 28, 28, 1)` uint8, as `(split, images, labels)`."""
    benchmark = load("omniglot", path)
    preprocessing = ImagePreprocessing(SIZE, SIZE, 1)
    parts = []
    for split in (benchmark.train, benchmark.test):
        images = np.concatenate([batch.numpy().round() for batch in split.dataset(preprocessing, 512)])
        parts.append((split, images.astype("uint8"), split.labels))
    return parts


def build(arm, seed, num_classes):
    keras.utils.set_random_seed(seed)
    features = small_conv((SIZE, SIZE, 1), widths=(16, 32, 64))
    x = keras.layers.Flatten()(features.output)
    x = keras.layers.UnitNormalization()(keras.layers.Dense(DIM)(x))
    loss = TripletLoss(miner="semi_hard") if arm == "triplet" else DoubleHeaderHinge(**LOSSES[arm])
    augmentation = None
    if "das" in arm:
        augmentation = DASAugmentation(num_classes, detach=arm == "pddm-das", seed=seed)
    model = MetricLearner(
        keras.Model(features.input, x),
        augmentation=augmentation,
        pair_scorer=NegativeDistance() if arm == "distance" else PDDMUnit() if arm in LOSSES else None,
    )
    model.compile(
        keras.optimizers.Adam(RATE),
        loss=loss,
        loss_optimizer=keras.optimizers.Adam(10 * RATE) if arm == "pddm-fast-unit" else None,
    )
    return model


def run(arm, seed, steps, train, test):
    split, images, labels = train
    _, test_images, test_labels = test
    model = build(arm, seed, split.num_classes)
    batches = PKBatches(split, ImagePreprocessing(SIZE, SIZE, 1), CLASSES, PER_CLASS, seed=seed, replacement=False)

    def generate():
        for step in range(steps):
            rows = batches.rows(step)
            yield images[rows].astype("float32"), labels[rows]

    shape = (batches.batch_size, SIZE, SIZE, 1)
    data = tf.data.Dataset.from_generator(
        generate, output_signature=(tf.TensorSpec(shape, "float32"), tf.TensorSpec(shape[:1], "int32"))
    )
    some = test_labels % 4 == 0
    few = np.flatnonzero(test_labels < 64).reshape(64, -1)[::4, :4].reshape(-1)
    start = time.perf_counter()
    history = model.fit(
        data.repeat().prefetch(2),
        steps_per_epoch=EVERY,
        epochs=steps // EVERY,
        verbose=0,
        callbacks=[
            RetrievalEvaluation((test_images[some], test_labels[some]), ks=(1,)),
            CollapseGuard(test_images[few], test_labels[few]),
        ],
    ).history
    result = {"arm": arm, "seed": seed, "steps": steps, "seconds": time.perf_counter() - start, "history": history}
    embeddings = model.encoder.predict(test_images, batch_size=512, verbose=0)
    result["distance"] = measures(embeddings, test_labels)
    result["part"] = {"distance": measures(embeddings[some], test_labels[some])}
    if isinstance(model.pair_scorer, PDDMUnit):
        result["reranked"] = reranked(model.pair_scorer, embeddings, test_labels)
        result["part"]["score"] = by_score(model.pair_scorer, embeddings[some], test_labels[some])
    return result


def measures(embeddings, labels):
    result = evaluate_retrieval(embeddings, labels, ks=(1,))
    return {"recall@1": float(result.recall[1]), "map@r": float(result.map_at_r)}


def measures_of_lists(hits, relevant):
    """`recall@1` and `map@r` from `(n, k)` booleans, best first, and the `(n,)` numbers of relevant items."""
    rank = np.arange(1, hits.shape[1] + 1)
    counted = hits & (rank <= relevant[:, None])
    precision = np.cumsum(counted, axis=1) / rank
    return {
        "recall@1": float(hits[:, 0].mean()),
        "map@r": float(((precision * counted).sum(1) / relevant).mean()),
    }


def reranked(unit, embeddings, labels):
    """The nearest `SHORTLIST` by distance, put into the order of the score; and the milliseconds for one query."""
    shortlist, _ = nearest_neighbors(embeddings, k=SHORTLIST)
    rerank = tf.function(lambda queries, candidates: unit.rerank(queries, candidates)[1], autograph=False)
    order = np.concatenate(
        [
            rerank(embeddings[rows], embeddings[shortlist[rows]])
            for rows in np.array_split(np.arange(len(labels)), len(labels) // 512)
        ]
    )
    hits = labels[np.take_along_axis(shortlist, order, axis=1)] == labels[:, None]
    times = []
    for row in range(200):
        query, candidates = tf.constant(embeddings[row : row + 1]), tf.constant(embeddings[shortlist[row : row + 1]])
        start = time.perf_counter()
        rerank(query, candidates).numpy()
        times.append(1e3 * (time.perf_counter() - start))
    relevant = np.bincount(labels)[labels] - 1
    return {**measures_of_lists(hits, relevant), "ms": float(np.median(times[20:])), "ms_min": float(min(times[20:]))}


def by_score(unit, embeddings, labels):
    scores = np.array(tf.function(unit.pairwise, autograph=False)(embeddings))
    np.fill_diagonal(scores, -np.inf)
    relevant = np.bincount(labels)[labels] - 1
    order = np.argsort(-scores, axis=1, kind="stable")[:, : relevant.max()]
    return measures_of_lists(labels[order] == labels[:, None], relevant)


def tables(results, steps):
    """The results as Markdown: by distance, and by score."""

    def spread(values):
        values = 100 * np.array(values)
        return f"{values.mean():.1f} ± {values.std(ddof=1) if len(values) > 1 else 0:.1f}"

    def both(found):
        return " | ".join(spread([each[name] for each in found]) for name in ("recall@1", "map@r"))

    shown = {arm: title for arm, title in ARMS.items() if results.get(arm)}
    lines = ["| arm | seeds | Recall@1 | MAP@R | part: MAP@R at step " + " | ".join(map(str, marks(steps))) + " |"]
    lines.append("|---|---|---|---|" + "---|" * len(marks(steps)))
    for arm, title in shown.items():
        runs = results[arm]
        curve = [spread([r["history"]["val_map@r"][mark // EVERY - 1] for r in runs]) for mark in marks(steps)]
        lines.append(f"| {title} | {len(runs)} | {both([r['distance'] for r in runs])} | {' | '.join(curve)} |")
    lines.append(
        "\n| arm | Recall@1 | MAP@R | re-ranked: Recall@1 | MAP@R | part, by distance: Recall@1 | MAP@R "
        "| part, by score: Recall@1 | MAP@R |\n|---|---|---|---|---|---|---|---|---|"
    )
    costs = []
    for arm, title in shown.items():
        runs = [each for each in results[arm] if "reranked" in each]
        if not runs:
            continue
        costs += [(r["reranked"]["ms_min"], r["reranked"]["ms"]) for r in runs]
        columns = [[r["distance"] for r in runs], [r["reranked"] for r in runs]]
        columns += [[r["part"][order] for r in runs] for order in ("distance", "score")]
        lines.append(f"| {title} | {' | '.join(map(both, columns))} |")
    if costs:
        fastest, median = np.min(costs, axis=0)[0], np.median(costs, axis=0)[1]
        lines.append(
            f"\nRe-ranking {SHORTLIST} candidates for one query: fastest {fastest:.2f} ms, median {median:.2f} ms."
        )
    return "\n".join(lines)


def marks(steps):
    """Steps at which the table shows the curves."""
    return [step for step in (200, 400) if step < steps] + [steps]


def draw(results, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = {
        "val_recall@1": "Recall@1",
        "val_map@r": "MAP@R",
        "val_score_gap": "score gap",
        "val_embedding_spread": "embedding spread",
    }
    figure, axes = pyplot.subplots(1, 4, figsize=(15, 4.2))
    for axis, (name, title) in zip(axes, names.items(), strict=True):
        for number, (arm, label) in enumerate(ARMS.items()):
            curves = [each["history"][name] for each in results.get(arm, []) if name in each["history"]]
            if not curves:
                continue
            x = EVERY * np.arange(1, len(curves[0]) + 1)
            mean = np.mean(curves, axis=0)
            axis.plot(x, mean, color=f"C{number}", label=label)
            axis.fill_between(x, np.min(curves, axis=0), np.max(curves, axis=0), color=f"C{number}", alpha=0.15, lw=0)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="lower center", ncol=4, frameon=False)
    figure.tight_layout(rect=(0, 0.19, 1, 1))
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, help="Omniglot; see keras_dml.data.load")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/pddm_omniglot"))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS)[:7])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1, help="TensorFlow threads; 0 leaves it to TensorFlow")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    results, parts = {}, None
    for seed in options.seeds:
        for arm in options.arms:
            path = options.output / f"{arm}-{seed}-{options.steps}.json"
            if not path.exists():
                parts = parts or prepare(options.data)
                result = run(arm, seed, options.steps, *parts)
                path.write_text(json.dumps(result, indent=1))
                part = {name: round(value, 4) for name, value in result["distance"].items()}
                print(f"{arm}, seed {seed}: {part} in {result['seconds']:.0f} s", flush=True)
                keras.backend.clear_session()
            results.setdefault(arm, []).append(json.loads(path.read_text()))
    print("\n" + tables(results, options.steps))
    draw(results, options.output / "curves.png")


if __name__ == "__main__":
    main()
