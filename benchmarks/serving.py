"""Speed of exported indexes and of the server, against ScaNN called directly, faiss and hnswlib.

    pip install 'keras-dml[serve,benchmark]'
    python benchmarks/serving.py                     both parts, about half an hour on 2 cores
    python benchmarks/serving.py --part index        searches in this process, peers interleaved
    python benchmarks/serving.py --part server       requests over loopback to `python -m export.serve`

Data: clustered unit vectors (`--clusters` centres, noise as long as `--spread` times the centres). Every peer is tuned
to the smallest search effort that reaches the recall asked for on 1000 queries of the same distribution. Rounds go
through all peers in turn, so that a busy machine slows all of them alike; read ratios rather than milliseconds.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
K = 10


@dataclasses.dataclass
class Peer:
    """A way to search: `single(query (1, d))` and `batch(queries (m, d))` -> `(m, K)` row numbers."""

    name: str
    single: Callable
    batch: Callable
    build_seconds: float
    recall: float = 0.0


def clustered(size, dim, clusters, spread, seed):
    centres = np.random.default_rng(7).normal(size=(clusters, dim)).astype(np.float32)
    random = np.random.default_rng(seed)
    rows = centres[random.integers(0, clusters, size)]
    rows += spread * random.normal(size=(size, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def timed(function):
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def recall_of(found, exact):
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), exact.tolist(), strict=True)]))


def tuned(name, make, efforts, queries, exact, target, seconds):
    """The peer with the least effort that reaches the target, or the most effort there is."""
    for effort in efforts:
        single, batch = make(effort)
        recall = recall_of(batch(queries), exact)
        if recall >= target:
            break
    return Peer(f"{name} {effort}", single, batch, seconds, recall)


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)


def exported(rows, queries, target, kind, folder, brute_force=False):
    """The exported graph with a calibrated index, and the same index as a bare ScaNN op."""
    import tensorflow as tf

    import export
    from export import index as index_builder

    settings = index_builder.choose(len(rows), rows.shape[1], kind=kind)
    gallery = export.Gallery(rows, tuple(str(row) for row in range(len(rows))))
    version, seconds = timed(
        lambda: export.build_model(
            folder, gallery, settings=settings, calibrate=True, recall=target, queries=queries, default_k=K
        )
    )
    model = export.load(version, brute_force=brute_force)
    k = tf.constant(K)

    def search(batch):
        return model.signatures["search_embeddings"](embeddings=tf.constant(batch), k=k)["indices"].numpy()

    return Peer(f"exported graph, {kind}", search, search, seconds), model


def bare_scann(rows, settings):
    """ScaNN's own Python API with the settings that the exported index ended up with."""
    import scann

    builder = scann.scann_ops_pybind.builder(rows, K, "dot_product")
    if settings["kind"] == "tree":
        builder = builder.tree(
            settings["leaves"], settings["leaves_to_search"], training_sample_size=len(rows), spherical=True
        )
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(settings["reorder"])
    searcher, seconds = timed(builder.build)

    def single(query):
        return searcher.search(query[0], final_num_neighbors=K)[0]

    def batch(queries):
        return searcher.search_batched_parallel(queries, final_num_neighbors=K)[0].astype(np.int64)

    return Peer(f"ScaNN directly, {settings['kind']}", single, batch, seconds)


def index_part(size, dim, arguments):
    import faiss
    import hnswlib
    import tensorflow as tf

    rows = clustered(size, dim, arguments.clusters, arguments.spread, 0)
    queries = clustered(1000, dim, arguments.clusters, arguments.spread, 1)
    flat = faiss.IndexFlatIP(dim)
    flat.add(rows)
    exact = flat.search(queries, K)[1]

    ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, 1000, faiss.METRIC_INNER_PRODUCT)
    _, ivf_seconds = timed(lambda: (ivf.train(rows), ivf.add(rows)))
    hnsw = faiss.IndexHNSWFlat(dim, 16, faiss.METRIC_INNER_PRODUCT)
    hnsw.hnsw.efConstruction = 100
    _, hnsw_seconds = timed(lambda: hnsw.add(rows))
    lib = hnswlib.Index("ip", dim)
    lib.init_index(size, M=16, ef_construction=100)
    _, lib_seconds = timed(lambda: lib.add_items(rows))

    def faiss_pair(index, configure=lambda: None):
        def single(query):
            configure()
            faiss.omp_set_num_threads(1)
            return index.search(query, K)[1]

        def batch(many):
            configure()
            faiss.omp_set_num_threads(os.cpu_count())
            return index.search(many, K)[1]

        return single, batch

    def ivf_pair(probes):
        return faiss_pair(ivf, lambda: setattr(ivf, "nprobe", probes))

    def hnsw_pair(effort):
        return faiss_pair(hnsw, lambda: setattr(hnsw.hnsw, "efSearch", effort))

    def lib_pair(effort):
        def single(query):
            lib.set_ef(effort)
            return lib.knn_query(query, K, num_threads=1)[0]

        def batch(many):
            lib.set_ef(effort)
            return lib.knn_query(many, K)[0].astype(np.int64)

        return single, batch

    for target in arguments.recalls:
        with tempfile.TemporaryDirectory() as folder:
            peers = []
            for kind in ("hashing", "tree"):
                peer, model = exported(rows, queries, target, kind, pathlib.Path(folder) / kind)
                peers += [peer, bare_scann(rows, model.manifest["index"])]
                if kind == "tree":
                    index = model.manifest["index"]
                    peer.name += f" {index['leaves_to_search']} of {index['leaves']}"
            import export

            twin = export.load(pathlib.Path(folder) / "tree", brute_force=True)

            def exact_graph(batch, twin=twin):
                return twin.signatures["search_embeddings"](embeddings=tf.constant(batch), k=tf.constant(K))[
                    "indices"
                ].numpy()

            peers.append(Peer("exported graph, exact twin", exact_graph, exact_graph, 0.0))
            peers.append(Peer("faiss exact", *faiss_pair(flat), 0.0))
            efforts = (10, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
            probes = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
            peers.append(tuned("faiss IVF1000, probes", ivf_pair, probes, queries, exact, target, ivf_seconds))
            peers.append(tuned("faiss HNSW16, ef", hnsw_pair, efforts, queries, exact, target, hnsw_seconds))
            peers.append(tuned("hnswlib M16, ef", lib_pair, efforts, queries, exact, target, lib_seconds))
            measure(peers, queries, exact, arguments)
            print(f"\n## {size:,} x {dim}, recall@{K} of at least {target}\n")
            table(
                [
                    "index",
                    f"recall@{K}",
                    "one query, ms: p50 min / median",
                    "1000 queries, q/s: max / median",
                    "built, s",
                ],
                [
                    [
                        peer.name,
                        f"{peer.recall:.3f}",
                        f"{min(peer.latency):.3f} / {np.median(peer.latency):.3f}",
                        f"{max(peer.rate):,.0f} / {np.median(peer.rate):,.0f}",
                        f"{peer.build_seconds:.0f}",
                    ]
                    for peer in peers
                ],
            )


def measure(peers, queries, exact, arguments):
    """Rounds through all peers: p50 of single queries, and the rate of a batch."""
    for peer in peers:
        peer.recall = recall_of(peer.batch(queries), exact)
        peer.latency, peer.rate = [], []
    for _ in range(arguments.rounds):
        for peer in peers:
            times = []
            for query in queries[: arguments.singles]:
                start = time.perf_counter()
                peer.single(query[None])
                times.append(time.perf_counter() - start)
            peer.latency.append(float(np.percentile(times, 50)) * 1000)
            _, seconds = timed(lambda peer=peer: peer.batch(queries))
            peer.rate.append(len(queries) / seconds)


async def http_client(port, path, bodies, deadline, times):
    """One keep-alive connection, one request after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while time.perf_counter() < deadline:
        body = bodies[number % len(bodies)]
        number += 1
        start = time.perf_counter()
        writer.write(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        length = next(
            int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        )
        await reader.readexactly(length)
        times.append(time.perf_counter() - start)
    writer.close()


async def grpc_client(stub, requests, deadline, times):
    number = 0
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        await stub.Predict(requests[number % len(requests)])
        number += 1
        times.append(time.perf_counter() - start)


async def load(target, clients, seconds):
    """Runs `clients` at once; returns requests per second and every request's milliseconds."""
    times = []
    start = time.perf_counter()
    await asyncio.gather(*(target(start + seconds, times) for _ in range(clients)))
    return len(times) / (time.perf_counter() - start), np.array(times) * 1000


def start_server(folder):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "export.serve",
            str(folder),
            "--rest-port",
            "0",
            "--grpc-port",
            "0",
            "--log-level",
            "info",
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if '"event": "listening"' in line:
            ports = json.loads(line)
            break
    else:
        raise RuntimeError("The server did not start")
    # A full pipe would stop the server.
    import threading

    threading.Thread(target=lambda: [None for _ in process.stderr], daemon=True).start()
    return process, ports["rest_port"], ports["grpc_port"]


def server_part(size, dim, arguments):
    import grpc
    import keras
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    import export
    from keras_dml.data import ImagePreprocessing

    rows = clustered(size, dim, arguments.clusters, arguments.spread, 0)
    queries = clustered(200, dim, arguments.clusters, arguments.spread, 1)
    backbone = keras.applications.MobileNetV2((224, 224, 3), include_top=False, weights=None, pooling="avg")
    encoder = keras.Sequential(
        [keras.Input((224, 224, 3)), keras.layers.Rescaling(1 / 127.5, -1), backbone, keras.layers.Dense(dim)]
    )
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 32, 3), dtype=np.uint8)
    photos = [
        tf.io.encode_jpeg(tf.cast(tf.image.resize(image, (360, 480), "bicubic", antialias=True), tf.uint8)).numpy()
        for image in noise
    ]
    with tempfile.TemporaryDirectory() as folder:
        gallery = export.Gallery(rows, tuple(f"item {row}" for row in range(size)))
        version = export.build_model(
            pathlib.Path(folder) / "bench", gallery, encoder, ImagePreprocessing(224), queries=queries, recall=0.95
        )
        model = export.load(version)
        function, k = model.signatures["search_embeddings"], tf.constant(K)
        embed = model.signatures["search_bytes"]
        process, rest_port, grpc_port = start_server(pathlib.Path(folder) / "bench")
        try:
            bodies = [
                json.dumps(
                    {"signature_name": "search_embeddings", "inputs": {"embeddings": [query.tolist()], "k": K}}
                ).encode()
                for query in queries
            ]
            requests = []
            for query in queries:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = "bench"
                request.model_spec.signature_name = "search_embeddings"
                request.inputs["embeddings"].CopyFrom(tf.make_tensor_proto(query[None]))
                request.inputs["k"].CopyFrom(tf.make_tensor_proto(np.int32(K)))
                requests.append(request)

            async def run():
                path = "/v1/models/bench:predict"
                channel = grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}")
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                targets = {
                    "HTTP, embedding": lambda end, times: http_client(rest_port, path, bodies, end, times),
                    "gRPC, embedding": lambda end, times: grpc_client(stub, requests, end, times),
                    "HTTP, JPEG 480 x 360": lambda end, times: http_client(
                        rest_port, "/search?k=10", photos, end, times
                    ),
                }
                results = {(name, clients): [] for clients in arguments.clients for name in targets}
                inside = {"embedding": [], "JPEG": []}
                for target in targets.values():
                    await load(target, 2, 1.0)
                for _ in range(arguments.rounds):
                    for clients in arguments.clients:
                        # The bare call, measured beside every round of requests.
                        for kind, calls in (("embedding", 200), ("JPEG", 10)):
                            times = []
                            for number in range(calls):
                                start = time.perf_counter()
                                if kind == "embedding":
                                    row = number % len(queries)
                                    function(embeddings=tf.constant(queries[row : row + 1]), k=k)["scores"].numpy()
                                else:
                                    embed(image_bytes=tf.constant([photos[number % 20]]), k=k)["scores"].numpy()
                                times.append((time.perf_counter() - start) * 1000)
                            inside[kind].append(np.percentile(times, 50))
                        for name, target in targets.items():
                            results[name, clients].append(await load(target, clients, arguments.seconds))
                await channel.close()
                return inside, results

            inside, results = asyncio.run(run())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    print(f"\n## Server, {size:,} x {dim}, {model.manifest['index']['kind']} index, MobileNetV2 encoder\n")
    bare = [f"{kind} {min(times):.2f} / {np.median(times):.2f} ms" for kind, times in inside.items()]
    print(f"The same calls in process, one at a time, p50 min / median: {', '.join(bare)}\n")
    lines = []
    for (name, clients), rounds in results.items():
        rate = [entry[0] for entry in rounds]
        p50, p99 = ([float(np.percentile(entry[1], share)) for entry in rounds] for share in (50, 99))
        lines.append(
            [
                name,
                clients,
                f"{max(rate):,.0f} / {np.median(rate):,.0f}",
                f"{min(p50):.2f} / {np.median(p50):.2f}",
                f"{min(p99):.2f} / {np.median(p99):.2f}",
            ]
        )
    table(["request", "clients", "requests/s: max / median", "p50 ms: min / median", "p99 ms: min / median"], lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("index", "server", "both"), default="both", help="what is measured")
    parser.add_argument("--size", type=int, default=100_000, help="gallery items (default 100000)")
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 512], help="embedding widths (default 128 512)")
    parser.add_argument("--recalls", type=float, nargs="+", default=[0.95, 0.99], help="recalls (default .95 .99)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64], help="clients at once (default 1 8 64)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds through all peers (default 5)")
    parser.add_argument("--singles", type=int, default=300, help="single queries per round (default 300)")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of load per round (default 4)")
    parser.add_argument("--clusters", type=int, default=1000, help="centres of the synthetic data (default 1000)")
    parser.add_argument("--spread", type=float, default=0.5, help="noise beside centres of length 1 (default 0.5)")
    arguments = parser.parse_args()
    for dim in arguments.dims:
        if arguments.part != "server":
            index_part(arguments.size, dim, arguments)
        if arguments.part != "index":
            server_part(arguments.size, dim, arguments)


if __name__ == "__main__":
    main()
