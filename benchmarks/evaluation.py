"""Time and memory of the exact retrieval metrics at the size of Stanford Online Products' test set.

    python benchmarks/evaluation.py                  the full size: 60,502 x 512, 11,316 classes
    python benchmarks/evaluation.py --scale 0.1      a tenth of the items and classes

`evaluate_retrieval` against faiss's exact index (IndexFlatIP; pip install faiss-cpu, or the `benchmark` extra) feeding
the same metrics: Recall@1/10/100/1000, MAP@R, R-precision, mAP@1000, MRR. Each measurement is a process of its own;
the two take turns, on the same cores. Memory is the peak above what the process holds once the embeddings and the
libraries are loaded.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ITEMS, WIDTH, CLASSES = 60502, 512, 11316
KS = (1, 10, 100, 1000)
NAMES = [*(f"recall@{k}" for k in KS), "map@r", "r_precision", "map@1000", "mrr"]


def make_embeddings(scale, noise=2.2, seed=0):
    """Unit vectors around class centers, between 2 and 12 of a class, as in the test set."""
    random = np.random.default_rng(seed)
    items, classes = round(ITEMS * scale), max(2, round(CLASSES * scale))
    sizes = 2 + random.binomial(10, (items / classes - 2) / 10, classes)
    labels = np.repeat(np.arange(classes), sizes)
    labels = np.concatenate([labels, random.integers(0, classes, max(0, items - len(labels)))])[:items]
    centers = random.standard_normal((classes, WIDTH), dtype=np.float32)
    embeddings = centers[labels] + noise * random.standard_normal((items, WIDTH), dtype=np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings, labels.astype(np.int32)


def with_keras_dml(embeddings, labels):
    """The metrics by `evaluate_retrieval`."""
    from keras_dml.evaluation import evaluate_retrieval

    result = evaluate_retrieval(embeddings, labels, ks=KS)
    return {name: result.mean(name) for name in NAMES}


def with_faiss(embeddings, labels, queries_at_a_time=4096):
    """The same metrics from the neighbors that faiss finds."""
    import faiss

    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(embeddings)
    relevant = np.bincount(labels)[labels] - 1
    depth = min(len(labels) - 1, max(1000, relevant.max()))
    sums = dict.fromkeys(NAMES, 0.0)
    ranks = np.arange(1, depth + 1)
    for start in range(0, len(labels), queries_at_a_time):
        rows = np.arange(start, min(start + queries_at_a_time, len(labels)))
        found = index.search(embeddings[rows], int(depth) + 1)[1]
        other = found != rows[:, None]
        other[other.all(axis=1), -1] = False
        found = found[other].reshape(len(rows), depth)
        hits = labels[found] == labels[rows, None]
        counted = np.cumsum(hits, axis=1, dtype=np.int32)
        summed = np.cumsum(np.where(hits, counted / ranks, 0.0), axis=1)
        keep = relevant[rows] > 0
        hits, counted, summed, total = hits[keep], counted[keep], summed[keep], relevant[rows][keep]
        line = np.arange(len(hits))
        for k in KS:
            sums[f"recall@{k}"] += np.count_nonzero(counted[:, min(k, depth) - 1])
        sums["map@r"] += np.sum(summed[line, total - 1] / total)
        sums["r_precision"] += np.sum(counted[line, total - 1] / total)
        sums["map@1000"] += np.sum(summed[:, min(1000, depth) - 1] / total)
        sums["mrr"] += np.sum(np.where(counted[:, -1] > 0, 1 / (np.argmax(hits, axis=1) + 1), 0))
    return {name: float(value / np.count_nonzero(relevant)) for name, value in sums.items()}


METHODS = {"keras_dml": with_keras_dml, "faiss": with_faiss}


def measure(method, folder):
    """Runs one method on the saved embeddings and prints what it took as JSON."""
    embeddings, labels = np.load(folder / "embeddings.npy"), np.load(folder / "labels.npy")
    # Libraries are loaded before the clock starts, and their own memory is not counted: a training process holds
    # TensorFlow anyway.
    if method == "keras_dml":
        import tensorflow as tf

        tf.linalg.matmul(embeddings[:64], embeddings[:64], transpose_b=True)
    METHODS[method](embeddings[:64], labels[:64])
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    metrics = METHODS[method](embeddings, labels)
    taken = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    taken["peak_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024
    print(json.dumps(taken | {"metrics": metrics}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the items and classes (default: 1)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each method (default: 3)")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.method:
        return measure(arguments.method, arguments.folder)
    results = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        embeddings, labels = make_embeddings(arguments.scale)
        np.save(folder / "embeddings.npy", embeddings)
        np.save(folder / "labels.npy", labels)
        size = f"{len(labels):,} x {WIDTH} embeddings, {len(np.unique(labels)):,} classes"
        del embeddings, labels
        for _ in range(arguments.repeats):
            for method, taken in results.items():
                command = [sys.executable, __file__, "--method", method, "--folder", name]
                run = subprocess.run(command, capture_output=True, text=True)
                if run.returncode:
                    sys.exit(f"{method} failed:\n{run.stderr}")
                taken.append(json.loads(run.stdout))
    cores = len(os.sched_getaffinity(0))
    print(f"{size}; {cores} cores; {arguments.repeats} runs of each, in turns; load average {os.getloadavg()[0]:.1f}\n")
    print("| | wall min (s) | wall median (s) | CPU median (s) | peak memory above the embeddings (MiB) |")
    print("|---|---:|---:|---:|---:|")
    for method, taken in results.items():
        wall = [one["wall"] for one in taken]
        cpu = statistics.median(one["cpu"] for one in taken)
        peak = max(one["peak_mib"] for one in taken)
        print(f"| {method} | {min(wall):.1f} | {statistics.median(wall):.1f} | {cpu:.1f} | {peak:.0f} |")
    pairs = zip(results["faiss"], results["keras_dml"], strict=True)
    ratios = sorted(theirs["wall"] / ours["wall"] for theirs, ours in pairs)
    print(f"\nfaiss / keras_dml, wall time per turn: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    ours, theirs = (results[method][0]["metrics"] for method in ("keras_dml", "faiss"))
    print("\n| metric | keras_dml | faiss | difference |\n|---|---:|---:|---:|")
    for name in NAMES:
        print(f"| {name} | {ours[name]:.6f} | {theirs[name]:.6f} | {ours[name] - theirs[name]:+.1e} |")
    return None


if __name__ == "__main__":
    main()
