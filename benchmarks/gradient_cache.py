"""Gradient caching: time of a training step and peak memory, in one pass and in chunks.

    python benchmarks/gradient_cache.py --batch 128 --chunks 64 16 --repeats 5

MobileNetV2-0.35 from random weights, frozen batch normalization, DAS and multi-similarity, in a process of its own for
each row, taking turns. The rival is the plain step on the same batch. Peak memory is above what the process held
before its first step.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def measure(batch, size, chunk, steps):
    """Seconds of each step, peak MiB above the start, and the loss of the last step."""
    import keras
    import numpy as np

    import keras_dml as dml

    keras.utils.set_random_seed(0)
    encoder = dml.backbones.build("mobilenet_v2", 128, input_shape=(size, size, 3), options={"alpha": 0.35})
    model = dml.MetricLearner(
        encoder, augmentation=dml.layers.DASAugmentation(64, seed=0), frozen_batch_norm=True, chunk_size=chunk
    )
    model.compile(keras.optimizers.Adam(1e-4), loss="multi_similarity")
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (batch, size, size, 3)).astype("float32")
    labels = np.repeat(np.arange(batch // 2), 2).astype("int32") % 64
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times, loss = [], None
    for _ in range(steps):
        start = time.perf_counter()
        loss = float(np.ravel(model.train_on_batch(images, labels))[0])
        times.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": times[1:], "peak_mib": (after - before) / 1024, "loss": loss}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=112, help="side of the images in pixels")
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 16])
    parser.add_argument("--steps", type=int, default=6, help="steps of a process, of which the first is not counted")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.batch, given.size, given.one or None, given.steps)))
        return
    from zoo.runs.provenance import cpu_model

    print(f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
    found = {chunk: [] for chunk in (0, *given.chunks)}
    for _ in range(given.repeats):
        for chunk in found:
            command = [sys.executable, __file__, "--one", str(chunk), "--batch", str(given.batch)]
            command += ["--size", str(given.size), "--steps", str(given.steps)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[chunk].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"batch of {given.batch} at {given.size} px\n| chunk | ms a step, min / median | peak MiB | loss |")
    print("|---:|---:|---:|---:|")
    for chunk, rows in found.items():
        times = sorted(second for row in rows for second in row["seconds"])
        peak = max(row["peak_mib"] for row in rows)
        print(
            f"| {chunk or 'none'} | {1000 * times[0]:.0f} / {1000 * times[len(times) // 2]:.0f} | {peak:.0f} "
            f"| {rows[0]['loss']:.6f} |"
        )


if __name__ == "__main__":
    main()
