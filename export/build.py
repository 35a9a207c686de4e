"""`python -m export.build RUN --gallery DATA`: a trained run and a gallery become a searchable, servable model."""

import argparse
import contextlib
import datetime
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from export import index as index_builder
from export import manifest, versions
from export.embedding import cache_key, embed_split, remove_cache
from export.gallery import Gallery, read_npz
from export.index_settings import KINDS, METRICS, IndexSettings
from export.reranking import reranking_effect, save_similarity
from export.runs import open_run
from export.sources import HELP, open_source
from export.terminal import Terminal, run_command
from export.thumbnails import Thumbnails
from export.versions import BRUTE_FORCE, GALLERY
from keras_dml.utils.command import run

if TYPE_CHECKING:
    from keras_dml.data import ImagePreprocessing, Split


def build_model(
    directory: str | pathlib.Path,
    gallery: "Gallery | Split",
    encoder: Any = None,
    preprocessing: "ImagePreprocessing | None" = None,
    *,
    embeddings: np.ndarray | None = None,
    settings: IndexSettings | None = None,
    metric: str = "cosine",
    recall: float = 0.95,
    queries: np.ndarray | None = None,
    calibrate: bool | None = None,
    default_k: int = 10,
    source: dict[str, Any] | None = None,
    cache: pathlib.Path | None = None,
    batch_size: int = 64,
    with_thumbnails: bool = True,
    keep: int | None = None,
    similarity: Any = None,
    shortlist: int = 100,
    pictures: Callable[[pathlib.Path], None] | None = None,
    report: Callable[[str], None] = lambda text: None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> pathlib.Path:
    """Writes the next version `directory/1/`, `directory/2/`...: SavedModel, exact twin, gallery and manifest.

    The version is written aside and renamed when complete: a crash leaves no half version.

    Args:
        directory: The model directory. Its name is the model's name when served.
        gallery: Items to find: a `Gallery` of embeddings, or a `Split` of images that the encoder embeds.
        encoder: keras.Model, `(n, size, size, channels)` float32 in [0, 255] to `(n, d)`. None makes a model that is
            searched by embeddings only.
        preprocessing: From a uint8 image of any size to an encoder input; goes with `encoder`.
        embeddings: `(n, d)` embeddings of a `Split`, where they are known already.
        settings: Index settings; chosen by gallery size and calibrated by default.
        metric: `"cosine"`, `"dot_product"` or `"euclidean"`, where `settings` is None.
        recall: Recall at 10 against exact search that the index must reach.
        queries: `(m, d)` embeddings to calibrate with; a sample is held out of the gallery by default.
        calibrate: Whether search effort is calibrated; by default where `settings` is None.
        default_k: Neighbours returned where a request names none.
        source: What the manifest says about the origin, JSON-able.
        cache: Folder for shards of embeddings, for a build that can be resumed.
        batch_size: Images per forward pass while embedding.
        with_thumbnails: Whether pictures for the search page are stored, where the gallery is a `Split`.
        keep: Older versions are deleted but for the newest `keep`, this one included.
        similarity: PDDMUnit that re-ranks; the manifest then says what it costs and gains.
        shortlist: Nearest items that `similarity` puts into a new order.
        pictures: Writes the search page's pictures into a folder, for a `Gallery` whose images are elsewhere.
        report: Is told in words what happens.
        progress: Called with a stage's name, the items done and their total.

    Returns:
        The folder of the new version.

    Raises:
        ValueError: Non-finite embeddings, unusable images, ids that repeat, settings that do not fit.
    """
    directory = pathlib.Path(directory)
    if default_k < 1:
        raise ValueError(f"`default_k` must be positive. Received: default_k={default_k}")
    if keep is not None and keep < 1:
        raise ValueError(f"`keep` must be at least 1. Received: keep={keep}")
    if (encoder is None) != (preprocessing is None):
        raise ValueError("`encoder` and `preprocessing` go together: pass both or neither")
    split: Split | None = None
    if not isinstance(gallery, Gallery):
        split = gallery
        if embeddings is None:
            if encoder is None or preprocessing is None:
                raise ValueError("A gallery of images needs `encoder` and `preprocessing`, or its `embeddings`")
            embeddings = embed_split(
                encoder, preprocessing, split, cache, batch_size, lambda done, total: progress("embedding", done, total)
            )
        gallery = gallery_of(split, embeddings)
    if encoder is not None:
        check_encoder(encoder, preprocessing, gallery)
    with versions.partial_version(directory) as folder:
        if split is not None and with_thumbnails:
            Thumbnails.write(split, folder / GALLERY, lambda done, total: progress("pictures", done, total))
        if pictures is not None:
            pictures(folder / GALLERY)
        return write_version(
            directory,
            folder,
            gallery,
            encoder,
            preprocessing,
            settings=settings,
            metric=metric,
            recall=recall,
            queries=queries,
            calibrate=calibrate,
            default_k=default_k,
            source=source,
            keep=keep,
            similarity=similarity,
            shortlist=shortlist,
            report=report,
        )


def write_version(
    directory: pathlib.Path,
    folder: pathlib.Path,
    gallery: Gallery,
    encoder: Any,
    preprocessing: "ImagePreprocessing | None",
    *,
    settings: IndexSettings | None,
    metric: str,
    recall: float,
    queries: np.ndarray | None,
    calibrate: bool | None,
    default_k: int,
    source: dict[str, Any] | None,
    keep: int | None,
    similarity: Any,
    shortlist: int,
    report: Callable[[str], None],
) -> pathlib.Path:
    """Completes `folder`, which lies in `directory`, and publishes it. See `build_model` for the arguments."""
    import tensorflow as tf

    from export import scann_ops
    from export.graph.exact_searcher import ExactSearcher
    from export.graph.scann_resource import ScannResource
    from export.graph.scann_searcher import ScannSearcher
    from export.graph.search_module import SearchModule

    chosen = settings is None
    metric = metric if settings is None else settings.metric
    rows = index_builder.normalised(gallery.embeddings, metric)
    index = index_builder.build(rows, settings, recall, queries, metric, calibrate, report)
    reranking: dict[str, Any] | None = None

    def save(searcher: Any, target: pathlib.Path, reranks: bool) -> None:
        unit = similarity if reranks else None
        module = SearchModule(searcher, gallery, metric, encoder, preprocessing, default_k, unit, shortlist)
        tf.saved_model.save(module, str(target), signatures=module.signatures())

    with tempfile.TemporaryDirectory(prefix="scann-") as scratch:
        exact = ExactSearcher(rows, metric)
        save(exact, folder / BRUTE_FORCE, similarity is not None)
        searcher: Any = exact
        if index.searcher is not None:
            ops = scann_ops.register()
            tensors = ops.scann_to_tensors(index.searcher.searcher_handle)
            searcher = ScannSearcher(
                ops, ScannResource(ops, tensors, pathlib.Path(scratch)), index.settings, len(gallery)
            )
            del tensors
        save(searcher, folder, similarity is not None)
        if similarity is not None:
            plain = pathlib.Path(scratch) / "plain"
            save(searcher, plain, False)
            report("measuring what re-ranking costs and gains")
            reranking = {"shortlist": shortlist, **reranking_effect(folder, plain, gallery)}
    del exact, searcher
    gallery.save(folder / GALLERY)
    if encoder is not None:
        encoder.save(folder / "encoder.keras")
    if similarity is not None:
        save_similarity(similarity, gallery.dim, folder / "similarity.keras")
    report("measuring the saved model")
    content = {
        "name": directory.absolute().name,
        "version": 0,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "source": source or {},
        "embedding_dim": gallery.dim,
        "preprocessing": None if preprocessing is None else preprocessing.to_config(),
        "gallery": {"size": len(gallery), "metadata": {name: _kind(v) for name, v in gallery.metadata.items()}},
        "default_k": default_k,
        "index": {
            **index.settings.to_config(),
            "chosen_for_recall": recall if chosen else None,
            "build_seconds": round(index.build_seconds, 3),
            "needs_scann": index.searcher is not None,
        },
        "recall": None if index.calibration is None else vars(index.calibration),
        "reranking": reranking,
        "latency": None if not len(gallery) else _latency(folder, gallery),
    }
    while True:
        number = versions.next_version(directory)
        manifest.write(folder, {**content, "version": number})
        with contextlib.suppress(FileExistsError):
            version = versions.publish(folder, directory, number)
            break
    if keep is not None:
        versions.prune(directory, keep)
    report(f"wrote {version}")
    return version


def gallery_of(split: "Split", embeddings: np.ndarray) -> Gallery:
    """A split's ids and class names with the embeddings of its images."""
    names = np.array([*split.class_names, ""], dtype=object)[:-1]
    return Gallery(embeddings, tuple(split.ids), {"label": names[np.asarray(split.labels)]} if len(names) else {})


def check_encoder(encoder: Any, preprocessing: Any, gallery: Gallery) -> None:
    """Raises a ValueError where encoder, preprocessing and gallery do not fit each other."""
    shape = tuple(encoder.input_shape[1:])
    if shape != tuple(preprocessing.input_shape):
        raise ValueError(
            f"The preprocessing makes images of shape {tuple(preprocessing.input_shape)}, the encoder takes {shape}"
        )
    if encoder.output_shape[-1] != gallery.dim:
        raise ValueError(
            f"The gallery's embeddings have {gallery.dim} dimensions, the encoder makes {encoder.output_shape[-1]}. "
            "Embed the gallery with this encoder"
        )


def _kind(values: np.ndarray) -> str:
    return "str" if values.dtype == object else values.dtype.name


def _latency(folder: pathlib.Path, gallery: Gallery, repeats: int = 100) -> dict[str, Any] | None:
    """Milliseconds per call of the saved `search_embeddings` with one query, after loading it anew."""
    import tensorflow as tf

    if not len(gallery):
        return None
    module = tf.saved_model.load(str(folder))
    function = module.signatures["search_embeddings"]
    rows = np.random.default_rng(0).integers(0, len(gallery), repeats)
    times = []
    for row in rows:
        query = tf.constant(gallery.embeddings[row : row + 1])
        start = time.perf_counter()
        function(embeddings=query, k=tf.constant(10))["scores"].numpy()
        times.append((time.perf_counter() - start) * 1000)
    return {
        "what": "one embedding query, k=10, called from Python on the building machine",
        "p50_ms": round(float(np.percentile(times, 50)), 3),
        "p99_ms": round(float(np.percentile(times, 99)), 3),
    }


def add_index_arguments(parser: argparse.ArgumentParser) -> None:
    """The options about the index, which building and updating share."""
    group = parser.add_argument_group("index", "By default the index is chosen by gallery size and calibrated.")
    group.add_argument(
        "--recall",
        type=float,
        metavar="R",
        help="recall at 10, against exact search, that the index must reach (default 0.95)",
    )
    group.add_argument("--kind", choices=KINDS, help="kind of index, instead of one chosen by the gallery's size")
    group.add_argument("--metric", choices=METRICS, help="what near means (default cosine)")
    group.add_argument("--leaves", type=int, metavar="N", help="leaves of a tree")
    group.add_argument(
        "--leaves-to-search", type=int, metavar="N", help="leaves searched for a query; given, it is not calibrated"
    )
    group.add_argument(
        "--reorder", type=int, metavar="N", help="candidates that get exact scores; given, it is not calibrated"
    )
    group.add_argument("--dimensions-per-block", type=int, metavar="N", help="dimensions per hashed block (default 2)")
    group.add_argument(
        "--int8", action="store_true", default=None, help="keep 8-bit vectors: a quarter of the index's memory"
    )


def index_options(arguments: argparse.Namespace, size: int, dim: int) -> dict[str, Any]:
    """Keyword arguments of `build_model` for the options of `add_index_arguments`."""
    options: dict[str, Any] = {"metric": arguments.metric or "cosine"}
    if arguments.recall is not None:
        options["recall"] = arguments.recall
    names = ("kind", "leaves", "leaves_to_search", "reorder", "dimensions_per_block", "int8")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if not given:
        return options
    kind = given.get("kind") or ("tree" if "leaves" in given or "leaves_to_search" in given else None)
    settings = index_builder.choose(size, dim, options["metric"], bool(given.get("int8")), kind, given.get("leaves"))
    config = {**settings.to_config(), **given}
    if "leaves" in given and "leaves_to_search" not in given:
        config["leaves_to_search"] = max(1, min(config["leaves_to_search"], given["leaves"]))
    options["settings"] = IndexSettings.from_config(config)
    options["calibrate"] = "leaves_to_search" not in given and "reorder" not in given
    return options


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m export.build",
        description="Embeds a gallery with a trained run and writes a model directory with the next version: a "
        "SavedModel that finds gallery items for images or embeddings, its exact twin without custom ops, and a "
        "manifest. An interrupted build goes on where it stopped when the same command is given again.",
        epilog="example: python -m export.build runs/digits --gallery digits --output models/digits",
    )
    result.add_argument("run", metavar="RUN", help="run or experiment folder, as zoo.reproduce writes it")
    result.add_argument("--gallery", required=True, metavar="DATA", help=HELP)
    result.add_argument(
        "--output",
        metavar="DIR",
        help="model directory; its name is the model's name when served (default RUN/export/NAME of the run)",
    )
    result.add_argument("--data-dir", metavar="DIR", help="folder with benchmark data")
    result.add_argument(
        "--queries", metavar="FILE", help=".npz with `embeddings` of queries to calibrate the index with"
    )
    result.add_argument("--k", type=int, default=10, help="neighbours returned where a request names none (default 10)")
    result.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per forward pass (default 64)")
    result.add_argument("--keep", type=int, metavar="N", help="delete older versions but for the newest N")
    result.add_argument("--no-thumbnails", action="store_true", help="store no pictures for the search page")
    result.add_argument("--skip-unreadable", action="store_true", help="leave out files of a folder that are no images")
    result.add_argument(
        "--rerank",
        type=int,
        metavar="N",
        help="re-rank the N nearest items with the run's PDDM unit; the manifest says what it costs and gains",
    )
    add_index_arguments(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    arguments = parser().parse_args(argv)
    return run_command(lambda terminal: _run(arguments, terminal))


def _run(arguments: argparse.Namespace, terminal: Terminal) -> pathlib.Path:
    if arguments.batch_size < 1:
        raise ValueError(f"`--batch-size` must be positive. Received: {arguments.batch_size}")
    run = open_run(arguments.run)
    directory = pathlib.Path(arguments.output or pathlib.Path(arguments.run) / "export" / run.name)
    data = open_source(arguments.gallery, arguments.data_dir, arguments.skip_unreadable)
    terminal.report(f"{len(data):,} items in {arguments.gallery}")
    queries = None
    if arguments.queries:
        queries = read_npz(pathlib.Path(arguments.queries), ("embeddings",))["embeddings"]
    encoder, preprocessing = run.encoder(), run.preprocessing()
    similarity = None
    if arguments.rerank is not None:
        if arguments.rerank < 1:
            raise ValueError(f"`--rerank` must be positive. Received: {arguments.rerank}")
        similarity = run.similarity()
        if similarity is None:
            raise ValueError(f"--rerank needs a run with a PDDM unit, and {run.folder} holds no similarity.keras")
    cache = None
    if not isinstance(data, Gallery):
        cache = directory / f".embedding-{cache_key(run.encoder_path, preprocessing, data)}"
    dim = data.dim if isinstance(data, Gallery) else int(encoder.output_shape[-1])
    version = build_model(
        directory,
        data,
        encoder,
        preprocessing,
        queries=queries,
        default_k=arguments.k,
        source={**run.source(), "gallery": arguments.gallery},
        cache=cache,
        batch_size=arguments.batch_size,
        with_thumbnails=not arguments.no_thumbnails,
        keep=arguments.keep,
        similarity=similarity,
        shortlist=arguments.rerank or 100,
        report=terminal.report,
        progress=terminal.progress,
        **index_options(arguments, len(data), dim),
    )
    if cache is not None:
        remove_cache(cache)
    return version


if __name__ == "__main__":
    run(main)
