"""What PDDM adds to a training step: score all pairs, mine, loss, gradient, update; in time and in memory.

    python benchmarks/pddm.py [--repeats 10] [--threads 2]

The materialised version is the formulas written down directly: every pair of the batch as a row of one tensor, the
whole of it under the gradient, quadruplets picked from the score matrix. It computes the same loss from the same
weights, which is checked before anything is timed. `DoubleHeaderHinge` scores the pairs in blocks without a gradient,
each unordered pair once, and computes again with a gradient only the pairs it picked.

The steps of one size take turns, so that a busy machine slows all of them alike; compare minima first. Memory is the
highest resident size of a fresh process that runs the step three times, beside that of a process that has done
everything but the step.
"""

import argparse
import os
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from keras_dml.layers import PDDMUnit
from keras_dml.losses import DoubleHeaderHinge
from keras_dml.mining import hard_quadruplets

SIZES = ((64, 128), (64, 1024), (256, 128), (256, 1024))
PER_CLASS = 4
VARIANTS = ("blocks", "materialised")
MININGS = ("pair", "batch")


def materialised_loss(unit, labels, x, mining):
    """The loss with one row per ordered pair, `alpha` .5, `beta` 1, `weight` .5."""
    n = x.shape[0]
    first, second = tf.repeat(x, n, axis=0), tf.tile(x, (n, 1))
    u = tf.nn.relu(tf.abs(first - second) @ unit.difference_kernel + unit.difference_bias)
    v = tf.nn.relu((first + second) / 2 @ unit.mean_kernel + unit.mean_bias)
    both = tf.concat([tf.math.l2_normalize(u, axis=1), tf.math.l2_normalize(v, axis=1)], axis=1)
    c = tf.nn.relu(both @ unit.combined_kernel + unit.combined_bias)
    scores = tf.reshape(c @ unit.score_kernel + unit.score_bias, (n, n))
    distances = tf.reshape(tf.reduce_sum((first - second) ** 2, axis=1), (n, n))
    i, j, k, l, valid = hard_quadruplets(tf.stop_gradient(scores), labels, strategy=mining)  # noqa: E741

    def pick(matrix, rows, columns):
        return tf.gather_nd(matrix, tf.stack([rows, columns], axis=1))

    total = 0.0
    for a, b in ((i, k), (j, l)):
        total += tf.nn.relu(0.5 - pick(scores, i, j) + pick(scores, a, b))
        total += 0.5 * tf.nn.relu(1.0 + pick(distances, i, j) - pick(distances, a, b))
    weights = tf.cast(valid, "float32")
    return tf.reduce_sum(total * weights) / tf.maximum(tf.reduce_sum(weights), 1.0)


def data(batch, dim):
    x = np.random.default_rng(0).normal(size=(batch, dim)).astype("float32")
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return tf.constant(np.repeat(np.arange(batch // PER_CLASS), PER_CLASS).astype("int32")), tf.Variable(x)


def make_step(variant, batch, dim, mining, jit):
    """One update of the unit and of the embeddings, which stand for an encoder; returns the loss."""
    keras.utils.set_random_seed(0)
    labels, x = data(batch, dim)
    unit = PDDMUnit()
    unit.build([(None, dim), (None, dim)])
    loss = DoubleHeaderHinge(mining=mining)
    variables = [x, *[weight.value for weight in unit.trainable_weights]]

    @tf.function(jit_compile=jit, autograph=False)
    def step():
        with tf.GradientTape() as tape:
            rows = tf.math.l2_normalize(x, axis=1)
            if variant == "blocks":
                value = loss(labels, rows, pair_scorer=unit, training=True)
            else:
                value = materialised_loss(unit, labels, rows, mining)
        for variable, gradient in zip(variables, tape.gradient(value, variables), strict=True):
            variable.assign_sub(1e-3 * gradient)
        return value

    return step


def highest_resident_mib():
    # Not getrusage: there a fresh process starts with the highest size of the one that started it.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def peak(variant, batch, dim, mining, jit):
    """MiB of resident memory at its highest: before the step, and after three of them."""
    step = make_step(variant, batch, dim, mining, jit)
    tf.matmul(tf.ones((64, 64)), tf.ones((64, 64)))
    before = highest_resident_mib()
    for _ in range(3):
        step().numpy()
    print(f"PEAK {before:.0f} {highest_resident_mib():.0f}")


def peak_in_fresh_process(options, *settings):
    command = [sys.executable, __file__, "--threads", str(options.threads), "--mining", options.mining]
    command += [*(["--jit"] if options.jit else []), "--peak", *map(str, settings)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line.split() for line in run.stdout.splitlines() if line.startswith("PEAK")]
    if not lines:
        return "failed", "failed"  # out of memory, most likely
    before, after = map(int, lines[0][1:])
    return f"{after}", f"{after - before}"


def measure(steps, repeats):
    times = {name: np.empty(repeats) for name in steps}
    for turn in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step().numpy()
            times[name][turn] = 1e3 * (time.perf_counter() - start)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of each (fewer at the largest size)")
    parser.add_argument("--threads", type=int, default=0, help="TensorFlow threads; 0 leaves it to TensorFlow")
    parser.add_argument("--mining", choices=MININGS, default="pair", help="see DoubleHeaderHinge")
    parser.add_argument("--jit", action="store_true", help="compile the steps with XLA")
    parser.add_argument("--no-memory", action="store_true", help="leave out the processes that measure memory")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
        tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    if options.peak:
        variant, batch, dim = options.peak
        peak(variant, int(batch), int(dim), options.mining, options.jit)
        return
    print(
        f"Mining {options.mining!r}, {PER_CLASS} items per class, units = d, {'jit' if options.jit else 'graph'}; "
        f"TensorFlow {tf.__version__}, {os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f} at the start\n"
    )
    print("| batch | d | step | ms, min / median | times the materialised, min / median | peak MiB | of it the step |")
    print("|---|---|---|---|---|---|---|")
    for batch, dim in SIZES:
        steps = {variant: make_step(variant, batch, dim, options.mining, options.jit) for variant in VARIANTS}
        values = [float(step()) for step in steps.values()]
        if not np.isclose(*values, rtol=1e-4):
            raise AssertionError(f"The two versions disagree at batch {batch}, d {dim}: {values}")
        repeats = max(3, options.repeats // 4) if batch * batch * dim > 10**7 else options.repeats
        times = measure(steps, repeats)
        for variant in VARIANTS:
            t, reference = times[variant], times["materialised"]
            memory = ("-", "-") if options.no_memory else peak_in_fresh_process(options, variant, batch, dim)
            print(
                f"| {batch} | {dim} | {variant} | {t.min():.1f} / {np.median(t):.1f} "
                f"| {t.min() / reference.min():.2f} / {np.median(t) / np.median(reference):.2f} "
                f"| {memory[0]} | {memory[1]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
