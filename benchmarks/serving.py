"""Speed of exported indexes and of the server, against ScaNN called directly, faiss and hnswlib.

    pip install 'keras-dml[serve,benchmark]'
    python benchmarks/serving.py --build-only        builds every index into --cache, about 20 minutes on 2 cores
    python benchmarks/serving.py                     measures, about 10 minutes (builds what the cache lacks)
    python benchmarks/serving.py --part index --dims 512 --recalls 0.99       one piece of it

Indexes are kept in the cache, and a table is printed as soon as its piece is done: an interrupted run loses one piece.

Data: clustered unit vectors, `--clusters` centers with noise `--spread` times as long around them. At 1.4 clusters
overlap, so that recall has to be paid for; at 0.5 a single cell of a partition holds all neighbors of a query.

Every method gets the least effort that reaches the recall asked for on 1000 queries; another 1000 are measured. One
query is searched on one thread, a batch on all cores by every method (the column `cores` is CPU time by wall time while
it ran). Rounds go through all methods in turn, so that a busy machine slows all of them alike.
"""

import argparse
import asyncio
import dataclasses
import gc
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
K = 10
QUERIES = 1000
THREADS = len(os.sched_getaffinity(0))
KINDS = ("tree", "hashing")


@dataclasses.dataclass
class Method:
    """A way to search.

    Args:
        name: What the table calls it.
        single: From a query `(1, d)` to row numbers, on one thread.
        batch: From queries `(m, d)` to row numbers `(m, K)`, on all cores.
        singles: Queries of a round that are searched one by one.
    """

    name: str
    single: Callable
    batch: Callable
    singles: int = 200
    recall: float = 0.0
    latency: list[float] = dataclasses.field(default_factory=list)
    rate: list[float] = dataclasses.field(default_factory=list)
    cores: list[float] = dataclasses.field(default_factory=list)


class Cache:
    """Built indexes of one data set in a folder.

    Args:
        folder: The folder, made if missing.
    """

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name, build, load):
        """What `load(path)` returns, after `build(path)` where that was not done before."""
        path = self.folder / name
        # Written last: without it the index counts as not built.
        mark = self.folder / f"{name}.built"
        if not mark.exists():
            print(f"building {path}", file=sys.stderr, flush=True)
            build(path)
            mark.touch()
        return load(path)


class Data:
    """The vectors and queries of one width, and the cache of indexes over them.

    Args:
        dim: Width of the vectors.
        arguments: The command line.
    """

    def __init__(self, dim, arguments):
        self.dim = dim
        self.arguments = arguments
        self.rows = clustered(arguments.size, dim, arguments.clusters, arguments.spread, 0)
        self.tuning = clustered(QUERIES, dim, arguments.clusters, arguments.spread, 1)
        self.queries = clustered(QUERIES, dim, arguments.clusters, arguments.spread, 2)
        name = f"{arguments.size}x{dim}-{arguments.clusters}-{arguments.spread}"
        self.cache = Cache(arguments.cache / name)


def clustered(size, dim, clusters, spread, seed):
    """`(size, dim)` float32 unit vectors around centers that depend on `dim` and `clusters` alone."""
    centers = np.random.default_rng(7).normal(size=(clusters, dim)).astype(np.float32)
    random = np.random.default_rng(seed)
    rows = centers[random.integers(0, clusters, size)]
    rows += spread * random.standard_normal(size=(size, dim), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def recall_of(found, exact):
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), exact.tolist(), strict=True)]))


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)


def spread_of(values, pattern, best):
    return f"{best(values):{pattern}} / {np.median(values):{pattern}}"


def exported_model(data, kind, target):
    """The exported model with an index of this kind, calibrated to the target on the tuning queries."""
    import export

    def build(folder):
        gallery = export.Gallery(data.rows, tuple(str(row) for row in range(len(data.rows))))
        index = export.IndexSpec(kind, recall=target)
        options = export.BuildOptions(default_k=K, queries=data.tuning)
        export.build_model(folder, gallery, index=index, options=options)

    return data.cache.get(f"exported-{kind}-{target}", build, export.load)


def exported_method(name, model, singles=200):
    """The signature `search_embeddings`, called from Python."""
    import tensorflow as tf

    k = tf.constant(K)

    def search(queries):
        return model.signatures["search_embeddings"](embeddings=tf.constant(queries), k=k)["indices"].numpy()

    return Method(name, search, search, singles)


def scann_method(data, settings):
    """ScaNN's own Python API with the settings that the exported index ended up with."""
    import scann

    def build(path):
        builder = scann.scann_ops_pybind.builder(data.rows, K, "dot_product")
        if settings["kind"] == "tree":
            builder = builder.tree(
                settings["leaves"], settings["leaves_to_search"], training_sample_size=len(data.rows), spherical=True
            )
        searcher = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(settings["reorder"]).build()
        path.mkdir(exist_ok=True)
        searcher.serialize(str(path), relative_path=True)

    name = f"scann-{settings['kind']}-{settings['leaves']}"
    searcher = data.cache.get(name, build, lambda path: scann.scann_ops_pybind.load_searcher(str(path)))
    options = {
        "final_num_neighbors": K,
        "pre_reorder_num_neighbors": settings["reorder"],
        "leaves_to_search": settings["leaves_to_search"] or -1,
    }

    def single(query):
        return searcher.search(query[0], **options)[0]

    def batch(queries):
        return searcher.search_batched_parallel(queries, **options)[0].astype(np.int64)

    return Method(f"ScaNN's Python API, the same {settings['kind']}", single, batch)


class Peers:
    """faiss and hnswlib over the data.

    Args:
        data: The data.
    """

    IVF_EFFORTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256)
    GRAPH_EFFORTS = (10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512)

    def __init__(self, data):
        import faiss
        import hnswlib

        self._faiss = faiss
        self.flat = faiss.IndexFlatIP(data.dim)
        self.flat.add(data.rows)

        def build_ivf(path):
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(data.dim), data.dim, 1000, faiss.METRIC_INNER_PRODUCT)
            index.train(data.rows)
            index.add(data.rows)
            faiss.write_index(index, str(path))

        def build_hnsw(path):
            index = faiss.IndexHNSWFlat(data.dim, 16, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = 100
            index.add(data.rows)
            faiss.write_index(index, str(path))

        def build_lib(path):
            index = hnswlib.Index("ip", data.dim)
            index.init_index(len(data.rows), M=16, ef_construction=100)
            index.add_items(data.rows)
            index.save_index(str(path))

        def load_lib(path):
            index = hnswlib.Index("ip", data.dim)
            index.load_index(str(path), len(data.rows))
            return index

        self.ivf = data.cache.get("ivf1000", build_ivf, lambda path: faiss.read_index(str(path)))
        self.hnsw = data.cache.get("hnsw16", build_hnsw, lambda path: faiss.read_index(str(path)))
        self.lib = data.cache.get("hnswlib16", build_lib, load_lib)

    def exact(self, queries):
        return self.flat.search(queries, K)[1]

    def method(self, name, index, configure=lambda: None, singles=200):
        """A faiss index as a method."""

        def search(queries, threads):
            configure()
            self._faiss.omp_set_num_threads(threads)
            return index.search(queries, K)[1]

        return Method(name, lambda query: search(query, 1), lambda queries: search(queries, THREADS), singles)

    def ivf_method(self, probes):
        return self.method(f"faiss IVF1000, {probes} probes", self.ivf, lambda: setattr(self.ivf, "nprobe", probes))

    def hnsw_method(self, effort):
        return self.method(
            f"faiss HNSW16, ef {effort}",
            self.hnsw,
            lambda: setattr(self.hnsw.hnsw, "efSearch", effort),
        )

    def lib_method(self, effort):
        def search(queries, threads):
            self.lib.set_ef(effort)
            return self.lib.knn_query(queries, K, num_threads=threads)[0].astype(np.int64)

        return Method(
            f"hnswlib M16, ef {effort}",
            lambda query: search(query, 1),
            lambda queries: search(queries, THREADS),
        )


def tuned(make, efforts, data, exact, target):
    """The method with the least effort that reaches the target on the tuning queries, or the most effort there is."""
    for effort in efforts:
        method = make(effort)
        if recall_of(method.batch(data.tuning), exact) >= target:
            break
    return method


def index_part(data, arguments):
    """Searches in this process: every method at every recall."""
    import export

    peers = Peers(data)
    exact = peers.exact(data.queries)
    exact_tuning = peers.exact(data.tuning)
    for target in arguments.recalls:
        models = {kind: exported_model(data, kind, target) for kind in KINDS}
        methods = []
        for kind, model in models.items():
            index = model.manifest["index"]
            effort = f", {index['leaves_to_search']} of {index['leaves']} leaves" if kind == "tree" else ""
            name = f"exported graph, {kind}{effort}"
            methods += [exported_method(name, model), scann_method(data, index)]
        methods += [
            tuned(peers.ivf_method, peers.IVF_EFFORTS, data, exact_tuning, target),
            tuned(peers.hnsw_method, peers.GRAPH_EFFORTS, data, exact_tuning, target),
            tuned(peers.lib_method, peers.GRAPH_EFFORTS, data, exact_tuning, target),
        ]
        if target == max(arguments.recalls):
            twin = export.load(models["hashing"].folder, exact=True)
            methods += [
                exported_method("exported graph, exact twin", twin, 50),
                peers.method("faiss exact", peers.flat, singles=50),
            ]
        if arguments.build_only:
            continue
        measure(methods, data.queries, exact, arguments.rounds)
        print(f"\n## {len(data.rows):,} x {data.dim}, recall@{K} of at least {target}, {THREADS} cores\n")
        table(
            ["method", f"recall@{K}", "one query, ms", f"{QUERIES} queries, 1/s", "cores"],
            [
                [
                    method.name,
                    f"{method.recall:.4f}",
                    spread_of(method.latency, ".3f", min),
                    spread_of(method.rate, ",.0f", max),
                    f"{np.median(method.cores):.1f}",
                ]
                for method in methods
            ],
        )
        calls = {}
        for kind, model in models.items():
            calls |= ways_to_call(kind, model, scann_method(data, model.manifest["index"]), data.queries)
        one_query(calls, data.queries, arguments)


def measure(methods, queries, exact, rounds):
    """Rounds through all methods: p50 of single queries, rate of a batch and the cores it kept busy."""
    for method in methods:
        method.recall = recall_of(method.batch(queries), exact)
    for _ in range(rounds):
        for method in methods:
            times = []
            for query in queries[: method.singles]:
                start = time.perf_counter()
                method.single(query[None])
                times.append(time.perf_counter() - start)
            method.latency.append(float(np.percentile(times, 50)) * 1000)
            start, start_cpu = time.perf_counter(), time.process_time()
            method.batch(queries)
            seconds = time.perf_counter() - start
            method.rate.append(len(queries) / seconds)
            method.cores.append((time.process_time() - start_cpu) / seconds)


def ways_to_call(kind, model, direct, queries):
    """`{name: function of a number of queries}`: each searches them one after the other."""
    import tensorflow as tf

    from export.index.scann import register_ops, searcher_handle

    ops = register_ops()
    index = model.manifest["index"]
    k = tf.constant(K)
    function = model.signatures["search_embeddings"]
    definition = function.graph.as_graph_def()
    nodes = [*definition.node, *(node for library in definition.library.function for node in library.node_def)]
    (shared_name,) = {node.attr["shared_name"].s.decode() for node in nodes if node.op == "Scann>TensorsToScann"}

    def bare(query):
        found = ops.scann_search_batched(
            searcher_handle(ops, shared_name),
            query,
            K,
            index["reorder"],
            -1 if index["leaves"] is None else index["leaves_to_search"],
            False,
        )
        return {"indices": found[0], "scores": found[1]}

    def in_graph(search):
        """A graph that searches `count` queries, the next when the one before is done."""
        constant = tf.constant(queries)

        def loop(count):
            def step(row, total):
                found = search(tf.ensure_shape(constant[row : row + 1], (1, queries.shape[1])))
                with tf.control_dependencies(list(found.values())):
                    return row + 1, total + tf.reduce_sum(found["scores"])

            return tf.while_loop(lambda row, total: row < count, step, (0, 0.0), parallel_iterations=1)[1]

        compiled = tf.function(loop, input_signature=(tf.TensorSpec((), tf.int32),), autograph=False)
        compiled = compiled.get_concrete_function()
        return lambda count: compiled(tf.constant(count)).numpy()

    def one_by_one(search):
        return lambda count: [search(query[None]) for query in queries[:count]]

    return {
        f"{kind}: ScaNN's Python API": one_by_one(direct.single),
        f"{kind}: ScaNN's op in a graph": in_graph(bare),
        f"{kind}: exported graph in a graph": in_graph(lambda query: function(embeddings=query, k=k)),
        f"{kind}: ScaNN's op from Python": one_by_one(lambda query: bare(tf.constant(query))["indices"].numpy()),
        f"{kind}: exported graph, signature from Python": one_by_one(
            lambda query: function(embeddings=tf.constant(query), k=k)["indices"].numpy()
        ),
        f"{kind}: exported graph, `search_embeddings`": one_by_one(lambda query: model.search_embeddings(query, K)),
    }


def one_query(calls, queries, arguments, count=200):
    """What one query costs when called in different ways: mean of `count` in a row."""
    times = {name: [] for name in calls}
    for function in calls.values():
        function(count)
    for _ in range(arguments.rounds):
        for name, function in calls.items():
            start = time.perf_counter()
            function(count)
            times[name].append((time.perf_counter() - start) / count * 1000)
    print("One query after the other, ms each:\n")
    table(["way to call", "min / median"], [[name, spread_of(values, ".3f", min)] for name, values in times.items()])


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
    """Calls on a shared channel, one after the other."""
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
        [sys.executable, "-m", "export.serve", str(folder), "--rest-port", "0", "--grpc-port", "0"],
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
    threading.Thread(target=lambda: [None for _ in process.stderr], daemon=True).start()
    return process, ports["rest_port"], ports["grpc_port"]


def served_model(data):
    """A model with an untrained MobileNetV2 and the index that is chosen by itself."""
    import keras

    import export
    from keras_dml import ImageEncoder
    from keras_dml.data import ImagePreprocessing

    def build(folder):
        shape = (224, 224, 3)
        backbone = keras.applications.MobileNetV2(shape, include_top=False, weights=None, pooling="avg")
        encoder = keras.Sequential(
            [keras.Input(shape), keras.layers.Rescaling(1 / 127.5, -1), backbone, keras.layers.Dense(data.dim)]
        )
        gallery = export.Gallery(data.rows, tuple(f"item {row}" for row in range(len(data.rows))))
        options = export.BuildOptions(queries=data.tuning)
        export.build_model(folder, gallery, ImageEncoder(encoder, ImagePreprocessing(224)), options=options)

    return data.cache.get("served", build, export.load)


def server_part(data, arguments):
    """Requests over loopback to `python -m export.serve` in a process of its own, the clients in this one."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    model = served_model(data)
    if arguments.build_only:
        return
    queries = data.queries[:200]
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 32, 3), dtype=np.uint8)
    photos = [
        tf.io.encode_jpeg(tf.cast(tf.image.resize(image, (360, 480), "bicubic", antialias=True), tf.uint8)).numpy()
        for image in noise
    ]
    bodies = [
        json.dumps({"signature_name": "search_embeddings", "inputs": {"embeddings": [row.tolist()], "k": K}}).encode()
        for row in queries
    ]
    requests = []
    for query in queries:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model.name
        request.model_spec.signature_name = "search_embeddings"
        request.inputs["embeddings"].CopyFrom(tf.make_tensor_proto(query[None]))
        request.inputs["k"].CopyFrom(tf.make_tensor_proto(np.int32(K)))
        requests.append(request)
    process, rest_port, grpc_port = start_server(model.folder.parent)

    def in_process(kind):
        """Milliseconds of calls without a server."""
        times = []
        for number in range(200 if kind == "embedding" else 20):
            start = time.perf_counter()
            if kind == "embedding":
                model.search_embeddings(queries[number % len(queries)], K)
            else:
                model.search(photos[number % len(photos)], K)
            times.append(time.perf_counter() - start)
        return np.array(times) * 1000

    async def run():
        path = f"/v1/models/{model.name}:predict"
        async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            targets = {
                "HTTP, embedding": lambda end, times: http_client(rest_port, path, bodies, end, times),
                "gRPC, embedding": lambda end, times: grpc_client(stub, requests, end, times),
                "HTTP, JPEG 480 x 360": lambda end, times: http_client(rest_port, "/search?k=10", photos, end, times),
            }
            results = {(name, clients): [] for name in targets for clients in arguments.clients}
            inside = {"embedding": [], "JPEG": []}
            for target in targets.values():
                await load(target, 2, 1.0)
            for _ in range(arguments.rounds):
                for kind, times in inside.items():
                    times.append(in_process(kind))
                for name, clients in results:
                    results[name, clients].append(await load(targets[name], clients, arguments.seconds))
            return inside, results

    # The clients' collections over TensorFlow's heap would be measured with the server's answers.
    gc.collect()
    gc.freeze()
    try:
        inside, results = asyncio.run(run())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    kind = model.manifest["index"]["kind"]
    print(f"\n## Server, {len(data.rows):,} x {data.dim}, {kind} index, MobileNetV2 encoder, {THREADS} cores\n")
    lines = []
    for kind, rounds in inside.items():
        p50, p99 = ([float(np.percentile(times, share)) for times in rounds] for share in (50, 99))
        lines.append([f"in process, {kind}", "", "", spread_of(p50, ".2f", min), spread_of(p99, ".2f", min)])
    for (name, clients), rounds in results.items():
        p50, p99 = ([float(np.percentile(times, share)) for _, times in rounds] for share in (50, 99))
        rate = spread_of([rate for rate, _ in rounds], ",.0f", max)
        lines.append([name, clients, rate, spread_of(p50, ".2f", min), spread_of(p99, ".2f", min)])
    table(["request", "clients", "requests/s: max / median", "p50 ms: min / median", "p99 ms: min / median"], lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("index", "server", "both"), default="both", help="what is measured")
    parser.add_argument("--build-only", action="store_true", help="fill the cache, measure nothing")
    parser.add_argument(
        "--cache",
        type=pathlib.Path,
        default=pathlib.Path(tempfile.gettempdir()) / "keras-dml-serving",
        help="folder for built indexes (default %(default)s)",
    )
    parser.add_argument("--size", type=int, default=100_000, help="gallery items (default 100000)")
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 512], help="embedding widths (default 128 512)")
    parser.add_argument("--recalls", type=float, nargs="+", default=[0.95, 0.99], help="recalls (default .95 .99)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64], help="clients at once (default 1 8 64)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds through everything (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of load per round (default 2)")
    parser.add_argument("--clusters", type=int, default=1000, help="centers of the synthetic data (default 1000)")
    parser.add_argument("--spread", type=float, default=1.4, help="noise beside centers of length 1 (default 1.4)")
    arguments = parser.parse_args()
    for dim in arguments.dims:
        data = Data(dim, arguments)
        if arguments.part != "server":
            index_part(data, arguments)
        if arguments.part != "index":
            server_part(data, arguments)


if __name__ == "__main__":
    main()
