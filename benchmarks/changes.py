"""How fast a server takes changes, and what they cost its searches.

    python benchmarks/changes.py --size 100000 --dim 128

Clients post embeddings over HTTP, each waiting for the acknowledgement (the change is on the disk by then) before its
next request. The disk matters: every request is flushed. Searches are of one embedding, by one client. Clients share
the processor with the server. Prints the processor.
"""

import argparse
import http.client
import json
import os
import pathlib
import sys
import tempfile
import threading
import time

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests" / "export")]
SECONDS = 8.0


def main() -> None:
    """Builds, serves, posts, prints tables."""
    from export_helpers import Server
    from filters import processor

    import export

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    rows = random.normal(size=(options.size, options.dim)).astype(np.float32)
    prices = np.arange(options.size)
    gallery = export.Gallery(rows, [f"item {row}" for row in range(options.size)], {"price": prices})
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder) / "m"
        export.build_model(directory, gallery, index=export.IndexSpec("tree", "cosine", calibrate=False))
        server = Server(directory, "--writable", "--no-page")
        try:
            print(f"{processor()}; {options.size:,} x {options.dim}\n")
            print("| changes | p50 of a search, ms | p95 |\n|---|---|---|")
            measure_searches(server, rows, 0)
            loads = ((1, 1), (8, 1), (8, 10), (4, 100))
            rates = [post(server, random, options.dim, clients, batch) for clients, batch in loads]
            waiting = int(rates[-1][-1])
            measure_searches(server, rows, waiting)
            print("\n| clients | items a request | items acknowledged, 1/s | p50 of a request, ms | p95 |")
            print("|---|---|---|---|---|")
            for clients, batch, rate, p50, p95, _ in rates:
                print(f"| {clients} | {batch} | {rate:,.0f} | {p50:.1f} | {p95:.1f} |")
        finally:
            server.kill()


def measure_searches(server: object, rows: np.ndarray, changes: int) -> None:
    """Prints a line of the first table."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    times = []
    for row in rows[:300]:
        body = json.dumps({"signature_name": "search_embeddings", "inputs": {"embeddings": [row.tolist()], "k": 10}})
        start = time.perf_counter()
        connection.request("POST", "/v1/models/m:predict", body)
        answer = connection.getresponse().read()
        times.append(time.perf_counter() - start)
        assert b"outputs" in answer
    p50, p95 = np.percentile(times[50:], (50, 95)) * 1000
    print(f"| {changes:,} | {p50:.2f} | {p95:.2f} |")


def post(server: object, random: np.random.Generator, dim: int, clients: int, batch: int) -> tuple:
    """Items a second that are acknowledged; half of them replace items of the version."""
    times: list[float] = []
    done = [0] * clients
    waiting = [0] * clients
    vectors = random.normal(size=(256, dim)).round(6).tolist()
    end = time.monotonic() + SECONDS

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        turn = 0
        while time.monotonic() < end:
            items = []
            for place in range(batch):
                serial = (turn * batch + place) % 1000
                name = f"item {number * 1000 + serial}" if place % 2 else f"new {clients} {batch} {number} {serial}"
                items.append({"id": name, "embedding": vectors[(turn + place) % 256], "metadata": {"price": turn}})
            body = json.dumps({"items": items})
            start = time.perf_counter()
            connection.request("POST", "/v1/models/m/items", body)
            response = connection.getresponse()
            answer = json.loads(response.read())
            times.append(time.perf_counter() - start)
            assert response.status == 200, answer
            done[number] += batch
            waiting[number] = answer["changes"]
            turn += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - start
    p50, p95 = np.percentile(times, (50, 95)) * 1000
    return clients, batch, sum(done) / seconds, p50, p95, max(waiting)


if __name__ == "__main__":
    main()
