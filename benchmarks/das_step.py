"""What DASAugmentation adds to a training step, beside a loop over samples and beside the step without it.

    python benchmarks/das_step.py [--rounds 200] [--threads 2]
    python benchmarks/das_step.py --batches 112 1024 4096      the producer alone at these batch sizes, 4 images a class

Batches are P x K: 56 classes of 2 images (`B = 112`) drawn anew each round, embeddings 512 wide, 3 produced embeddings
per anchor, `top_k` 8, banks of 10; for 100 classes (CUB-200-2011) and 11,318 (Stanford Online Products).

The loops do what a per-sample producer does, written plainly: count each sample's channels, push each ordered pair of a
class, then build each produced embedding. They work on TensorFlow tensors eagerly, on PyTorch tensors (where torch is
installed), and on numpy arrays, which have the least overhead per operation but no gradient: that loop cannot stand in
for `detach=False`. A loop over samples with per-class lists cannot be traced into a graph, so none has a graph version.

All variants take turns within a round, so that a busy machine slows all of them alike. Compare minima first: they are
what the code costs, medians also hold what else the machine was doing.
"""

import argparse
import collections
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

try:
    import torch
except ImportError:
    torch = None

from keras_dml.layers import DASAugmentation

CLASSES = (100, 11_318)
PER_CLASS, BATCH, DIM, PRODUCED, TOP_K, BANK = 2, 112, 512, 3, 8, 10
LOW, HIGH, SHIFT = 0.99, 1.01, 0.01


class TensorLoop:
    """One sample at a time on TensorFlow tensors, eagerly."""

    def __init__(self, num_classes):
        self.counts = tf.Variable(tf.zeros((num_classes, DIM), tf.int32))
        self.banks = collections.defaultdict(lambda: collections.deque(maxlen=BANK))
        self.rng = np.random.default_rng(0)

    def __call__(self, embeddings, labels):
        numbers = labels.numpy()
        for v, c in zip(embeddings, numbers, strict=True):
            channels = tf.math.top_k(v, TOP_K).indices
            self.counts.scatter_nd_add(
                tf.stack([tf.fill((TOP_K,), int(c)), channels], axis=1), tf.ones(TOP_K, tf.int32)
            )
        for c in np.unique(numbers):
            of_class = np.flatnonzero(numbers == c)
            for i in of_class:
                for j in of_class:
                    if i != j:
                        difference = embeddings[i] - embeddings[j]
                        if tf.reduce_any(difference != 0.0):
                            self.banks[c].append(difference)
        produced = []
        for _ in range(PRODUCED):
            for v, c in zip(embeddings, numbers, strict=True):
                channels = tf.math.top_k(tf.gather(self.counts, int(c)), TOP_K).indices
                mask = tf.reduce_sum(tf.one_hot(channels, DIM), axis=0)
                scale = tf.random.uniform((DIM,), LOW, HIGH) * mask + (1.0 - mask)
                row = v * scale
                if self.banks[c]:
                    row += SHIFT * self.banks[c][self.rng.integers(len(self.banks[c]))]
                produced.append(tf.math.l2_normalize(row))
        return tf.concat([embeddings, tf.stack(produced)], axis=0), tf.tile(labels, (1 + PRODUCED,))


class TorchLoop:
    """The same on PyTorch tensors, eagerly, as the published code is."""

    def __init__(self, num_classes):
        self.counts = torch.zeros(num_classes, DIM, dtype=torch.int32)
        self.banks = collections.defaultdict(lambda: collections.deque(maxlen=BANK))
        self.rng = np.random.default_rng(0)

    def __call__(self, embeddings, labels):
        numbers = labels.numpy()
        with torch.no_grad():
            for v, c in zip(embeddings, numbers, strict=True):
                self.counts[c, v.topk(TOP_K).indices] += 1
            for c in np.unique(numbers):
                of_class = np.flatnonzero(numbers == c)
                for i in of_class:
                    for j in of_class:
                        if i != j:
                            difference = embeddings[i] - embeddings[j]
                            if difference.any():
                                self.banks[c].append(difference)
            produced = []
            for _ in range(PRODUCED):
                for v, c in zip(embeddings, numbers, strict=True):
                    mask = torch.zeros(DIM)
                    mask[self.counts[c].topk(TOP_K).indices] = 1.0
                    row = v * (torch.empty(DIM).uniform_(LOW, HIGH) * mask + (1.0 - mask))
                    if self.banks[c]:
                        row = row + SHIFT * self.banks[c][self.rng.integers(len(self.banks[c]))]
                    produced.append(torch.nn.functional.normalize(row, dim=0))
            return torch.cat([embeddings, torch.stack(produced)]), labels.repeat(1 + PRODUCED)


class ArrayLoop:
    """The same on numpy arrays."""

    def __init__(self, num_classes):
        self.counts = np.zeros((num_classes, DIM), np.int32)
        self.banks = collections.defaultdict(lambda: collections.deque(maxlen=BANK))
        self.rng = np.random.default_rng(0)

    def __call__(self, embeddings, labels):
        values, numbers = embeddings.numpy(), labels.numpy()
        for v, c in zip(values, numbers, strict=True):
            self.counts[c, np.argpartition(-v, TOP_K)[:TOP_K]] += 1
        for c in np.unique(numbers):
            of_class = np.flatnonzero(numbers == c)
            for i in of_class:
                for j in of_class:
                    if i != j:
                        difference = values[i] - values[j]
                        if difference.any():
                            self.banks[c].append(difference)
        union = [values]
        for _ in range(PRODUCED):
            for v, c in zip(values, numbers, strict=True):
                mask = np.zeros(DIM, np.float32)
                mask[np.argpartition(-self.counts[c], TOP_K)[:TOP_K]] = 1.0
                scale = self.rng.uniform(LOW, HIGH, DIM).astype(np.float32) * mask + (1.0 - mask)
                row = v * scale
                if self.banks[c]:
                    row = row + np.float32(SHIFT) * self.banks[c][self.rng.integers(len(self.banks[c]))]
                union.append((row / np.linalg.norm(row))[None])
        return tf.constant(np.concatenate(union)), tf.tile(labels, (1 + PRODUCED,))


def das(num_classes, jit):
    layer = DASAugmentation(num_classes, PRODUCED, TOP_K, BANK, scale_range=(LOW, HIGH), shift_scale=SHIFT, seed=0)

    def produce(v, y):
        return layer(v, y, training=True)

    return produce if jit is None else tf.function(produce, jit_compile=jit)


def training_step(num_classes, jit):
    """Dense layer, L2 normalization, a loss that costs little, gradient, update; with DAS unless `num_classes` is 0."""
    weight = tf.Variable(tf.random.stateless_normal((DIM, DIM), (1, 2)))
    direction = tf.random.stateless_normal((DIM, 1), (3, 4))
    augment = None
    if num_classes:
        augment = DASAugmentation(
            num_classes, PRODUCED, TOP_K, BANK, scale_range=(LOW, HIGH), shift_scale=SHIFT, seed=0
        )

    @tf.function(jit_compile=jit)
    def step(x, y):
        with tf.GradientTape() as tape:
            v = tf.math.l2_normalize(x @ weight, axis=1)
            if augment is not None:
                v, _ = augment(v, y, training=True)
            loss = tf.reduce_mean(v @ direction)
        weight.assign_sub(1e-3 * tape.gradient(loss, weight))
        return loss

    return step


def batches(num_classes, count):
    rng = np.random.default_rng(1)
    made = []
    for _ in range(count):
        x = rng.normal(size=(BATCH, DIM)).astype("float32")
        labels = np.repeat(rng.choice(num_classes, BATCH // PER_CLASS, replace=False), PER_CLASS)
        made.append((tf.math.l2_normalize(tf.constant(x), axis=1), tf.constant(labels, tf.int32)))
    return made


def measure(variants, rounds):
    """Milliseconds, `{name: (rounds,)}`; `variants` is `{name: (function, batches)}`."""
    for function, data in variants.values():
        for pair in data[:3]:
            function(*pair)
    times = {name: np.empty(rounds) for name in variants}
    for turn in range(rounds):
        for name, (function, data) in variants.items():
            pair = data[turn % len(data)]
            start = time.perf_counter()
            result = function(*pair)
            # Waits for the result on any device.
            (result[0] if isinstance(result, tuple) else result).numpy()
            times[name][turn] = 1e3 * (time.perf_counter() - start)
    return times


def measure_sizes(sizes, rounds):
    """Prints milliseconds a call of the producer, for 11,318 classes, by batch size."""
    print("\n| B | graph, min / median | jit, min / median |\n|---|---|---|")
    random = np.random.default_rng(0)
    for size in sizes:
        embeddings = tf.constant(random.normal(size=(size, DIM)).astype("float32"))
        labels = tf.constant(np.repeat(random.choice(CLASSES[1], -(-size // 4), replace=False), 4)[:size])
        variants = {jit: (das(CLASSES[1], jit), [(embeddings, labels)]) for jit in (False, True)}
        times = measure(variants, rounds)
        print(f"| {size:,} | " + " | ".join(f"{t.min():.1f} / {np.median(t):.1f}" for t in times.values()) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="rounds of all variants")
    parser.add_argument("--loop-rounds", type=int, default=20, help="rounds of the comparison with the loops")
    parser.add_argument("--threads", type=int, default=0, help="TensorFlow threads; 0 leaves it to TensorFlow")
    parser.add_argument("--batches", type=int, nargs="+", help="batch sizes to measure instead")
    options = parser.parse_args()
    if options.threads:
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
        tf.config.threading.set_inter_op_parallelism_threads(options.threads)
        if torch is not None:
            torch.set_num_threads(options.threads)
    print(
        f"B={BATCH} ({BATCH // PER_CLASS} classes x {PER_CLASS}), d={DIM}, T={PRODUCED}, K={TOP_K}, Z={BANK}; "
        f"TensorFlow {tf.__version__}, {os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f} at the start"
    )
    if options.batches:
        measure_sizes(options.batches, options.rounds)
        return
    data = {c: batches(c, 16) for c in CLASSES}

    print(f"\n## The producer alone, ms per call ({options.loop_rounds} rounds)\n")
    for c in CLASSES:
        loops = {"loop, TensorFlow eager": (TensorLoop(c), data[c])}
        if torch is not None:
            tensors = [tuple(torch.from_numpy(x.numpy().copy()) for x in pair) for pair in data[c]]
            loops["loop, PyTorch"] = (TorchLoop(c), tensors)
        loops["loop, numpy"] = (ArrayLoop(c), data[c])
        ours = {
            "DASAugmentation, eager": (das(c, None), data[c]),
            "DASAugmentation, graph": (das(c, False), data[c]),
            "DASAugmentation, jit": (das(c, True), data[c]),
        }
        times = measure(loops | ours, options.loop_rounds)
        if c == CLASSES[0]:
            print("Right of the median: how many times as long each loop takes (min / median).\n")
            print(f"| classes | producer | min | median | {' | '.join(loops)} |")
            print("|---|---|---|---|" + "---|" * len(loops))
        for name, t in times.items():
            ratios = [f"{times[x].min() / t.min():.1f} / {np.median(times[x]) / np.median(t):.1f}" for x in loops]
            print(f"| {c:,} | {name} | {t.min():.2f} | {np.median(t):.2f} | {' | '.join(ratios)} |")

    print(f"\n## Training step, ms ({options.rounds} rounds)\n")
    print("| mode | classes | without min / median | with min / median | added min / median | added, median of pairs |")
    print("|---|---|---|---|---|---|")
    for jit in (False, True):
        times = measure(
            {0: (training_step(0, jit), data[CLASSES[0]]), **{c: (training_step(c, jit), data[c]) for c in CLASSES}},
            options.rounds,
        )
        for c in CLASSES:
            without, step = times[0], times[c]
            print(
                f"| {'jit' if jit else 'graph'} | {c:,} | {without.min():.2f} / {np.median(without):.2f} "
                f"| {step.min():.2f} / {np.median(step):.2f} "
                f"| {step.min() - without.min():.2f} / {np.median(step) - np.median(without):.2f} "
                f"| {np.median(step - without):.2f} |"
            )
        few, many = (times[c] for c in CLASSES)
        added = [(np.min(many) - np.min(times[0])) / (np.min(few) - np.min(times[0]))]
        added.append(np.median(many - times[0]) / np.median(few - times[0]))
        print(
            f"| {'jit' if jit else 'graph'} | {CLASSES[1]:,} : {CLASSES[0]} | | "
            f"{many.min() / few.min():.2f} / {np.median(many) / np.median(few):.2f} times "
            f"| {added[0]:.2f} times | {added[1]:.2f} times |"
        )


if __name__ == "__main__":
    main()
