"""Search under a filter: ours against an approximate index that is asked for more and filtered afterwards.

    python benchmarks/filters.py --size 100000 --dim 128

The rival is the same gallery's ScaNN tree (built for recall 0.95), asked for `1.5 k / share` neighbors, of which those
that the filter keeps are taken: what a client does where a service knows no filters. Recall at 10 is against exact
search among the kept items. Times are of one query whose filter was seen before (a service is asked the same few again
and again), and of the first request with a new one. Queries go through both in turns. Prints the processor.
"""

import argparse
import math
import os
import pathlib
import platform
import sys
import tempfile
import time

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
K = 10
SHARES = (0.5, 0.1, 0.01, 0.001)


def processor() -> str:
    """The processor's name."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if pathlib.Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(names)} cores"


def main() -> None:
    """Builds, searches, prints a table."""
    import export
    from export.gallery import Gallery

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    centers = random.normal(size=(options.size // 100, options.dim))

    def clustered(count: int) -> np.ndarray:
        rows = centers[random.integers(0, len(centers), count)] + 1.4 * random.normal(size=(count, options.dim))
        return rows.astype(np.float32)

    shares = random.random(options.size)
    kinds = np.array(["cups", "jugs"])[(shares < 0.5).astype(int)]
    gallery = Gallery(clustered(options.size), tuple(map(str, range(options.size))), {"price": shares, "kind": kinds})
    queries = clustered(options.queries)
    with tempfile.TemporaryDirectory() as folder:
        spec = export.IndexSpec(kind="tree", metric="cosine")
        export.build_model(pathlib.Path(folder) / "m", gallery, index=spec)
        model = export.load(pathlib.Path(folder) / "m")
        normed = gallery.embeddings / np.linalg.norm(gallery.embeddings, axis=1, keepdims=True)
        print(f"{processor()}; {options.size:,} x {options.dim}, {options.queries} queries, k {K}\n")
        print("| kept | search | recall at 10 | fewer than 10 found | p50 ms | p95 ms | a new filter, ms |")
        print("|---|---|---|---|---|---|---|")
        for share in SHARES:
            where = {"price": {"$lt": share}}
            kept = np.flatnonzero(shares < share)
            start = time.perf_counter()
            model.search_embeddings(queries[:1], K, where=where)
            first = time.perf_counter() - start
            times: dict[str, list[float]] = {"ours": [], "filtered afterwards": []}
            hits = dict.fromkeys(times, 0)
            short = dict.fromkeys(times, 0)
            wanted = min(options.size, math.ceil(1.5 * K / share))
            for query in queries:
                scores = normed[kept] @ (query / np.linalg.norm(query))
                truth = set(kept[np.argsort(-scores)[:K]].tolist())
                for name in times:
                    start = time.perf_counter()
                    if name == "ours":
                        found = model.search_embeddings(query, K, where=where).indices[0]
                    else:
                        found = model.search_embeddings(query, wanted).indices[0]
                        found = found[shares[found] < share][:K]
                    times[name].append(time.perf_counter() - start)
                    hits[name] += len(truth & set(found.tolist()))
                    short[name] += len(found) < min(K, len(kept))
            for name, taken in times.items():
                p50, p95 = np.percentile(taken, (50, 95)) * 1000
                recall = hits[name] / len(queries) / min(K, len(kept))
                new = f"{1000 * first:.1f}" if name == "ours" else ""
                part = f"{short[name] / len(queries):.0%}"
                print(f"| {share:.1%} | {name} | {recall:.4f} | {part} | {p50:.2f} | {p95:.2f} | {new} |")


if __name__ == "__main__":
    main()
