"""`keras-dml build RUN --gallery DATA`: a trained run and a gallery become a searchable, servable model."""

import argparse
import contextlib
import dataclasses
import datetime
import errno
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from export import manifest, versions
from export.build_options import BuildOptions
from export.deprecated import old_build_arguments
from export.embedding import cache_key, embed_split, remove_cache
from export.encoder_files import save_encoder
from export.gallery import Gallery, check_column, check_ids, read_npz
from export.index.built_index import BuiltIndex, build_index, normalized
from export.index.engine import EXACT, current_kind, engine_named, engines, kinds
from export.index.spec import AUTO, DEFAULT_RECALL, METRICS, IndexSpec
from export.reranking import reranking_effect
from export.sources import HELP, open_source
from export.thumbnails import Thumbnails
from export.versions import GALLERY
from keras_dml.utils.command import (
    OldFlag,
    Parser,
    WrongCallError,
    add_data_arguments,
    execute,
    positive,
    run,
    wrong_call,
)
from keras_dml.utils.files import check_folder
from keras_dml.utils.progress import SILENT, Progress, TerminalProgress

if TYPE_CHECKING:
    import keras

    from export.graph.searcher import Searcher
    from keras_dml import ImageEncoder
    from keras_dml.data import ImagePreprocessing, Split
    from zoo.runs import SavedRun


# What the C library says where a file cannot grow: in the midst of the texts of TensorFlow's and HDF5's errors.
DISK_ERRORS = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO))


@old_build_arguments
def build_model(
    directory: str | pathlib.Path,
    gallery: "Gallery | Split",
    encoder: "ImageEncoder | keras.Model | None" = None,
    preprocessing: "ImagePreprocessing | None" = None,
    *,
    embeddings: np.ndarray | None = None,
    index: IndexSpec | None = None,
    options: BuildOptions | None = None,
    progress: Progress = SILENT,
) -> pathlib.Path:
    """Writes the next version `directory/1/`, `directory/2/`...: SavedModel, exact twin, gallery and manifest.

    The version is written aside and renamed when complete: a crash leaves no half version.

    Args:
        directory: The model directory. Its name is the model's name when served.
        gallery: Items to find: a `Gallery` of embeddings, or a `Split` of images that the encoder embeds.
        encoder: The image encoder, or its keras.Model alone, `(n, size, size, channels)` float32 in [0, 255] to
            `(n, d)`. None makes a model that is searched by embeddings only.
        preprocessing: From a uint8 image of any size to an encoder input; goes with a keras.Model.
        embeddings: `(n, d)` embeddings of a `Split`, where they are known already.
        index: What is wanted of the index; chosen by gallery size and calibrated to recall 0.95 by default.
        options: Everything else; see `BuildOptions`.
        progress: Is told what happens, and how far the stages "embedding" and "pictures" are.

    Returns:
        The folder of the new version.

    Raises:
        ValueError: Non-finite embeddings, unusable images, ids that repeat, settings that do not fit.
        RuntimeError: The library of the index engine is missing or does not fit the installed TensorFlow.
    """
    directory = pathlib.Path(directory)
    index, options = index or IndexSpec(), options or BuildOptions()
    if not len(gallery) and not options.allow_empty:
        raise ValueError(
            "The gallery has no items: a search would find nothing. Name a folder or file that has some, or allow it "
            "(--allow-empty, BuildOptions(allow_empty=True))"
        )
    image_encoder = _image_encoder(encoder, preprocessing)
    if image_encoder is not None and options.pair_scorer is not None:
        # What re-ranks is what is saved with the encoder.
        image_encoder = dataclasses.replace(image_encoder, pair_scorer=options.pair_scorer)
    split: Split | None = None
    if not isinstance(gallery, Gallery):
        split = gallery
        # Before the hours that embedding may take.
        check_ids(split.ids, len(split))
        check_column("label", np.array([*split.class_names, ""], dtype=object)[:-1], len(split.class_names))
        if embeddings is None:
            if image_encoder is None:
                raise ValueError("A gallery of images needs an `encoder`, or its `embeddings`")
            embeddings = embed_split(image_encoder, split, options.cache, options.batch_size, progress)
        gallery = gallery_of(split, embeddings)
    if image_encoder is not None and image_encoder.embedding_dim != gallery.dim:
        raise ValueError(
            f"The gallery's embeddings have {gallery.dim} dimensions, the encoder makes "
            f"{image_encoder.embedding_dim}. Embed the gallery with this encoder"
        )
    with versions.partial_version(directory) as folder, disk_errors(directory):
        if split is not None and options.thumbnails:
            Thumbnails.write(split, folder / GALLERY, progress)
        if options.pictures is not None:
            options.pictures(folder / GALLERY)
        return _write_version(directory, folder, gallery, image_encoder, index, options, progress)


@contextlib.contextmanager
def disk_errors(directory: pathlib.Path) -> Iterator[None]:
    """A context in which what TensorFlow and HDF5 cannot write is an OSError of one line, as Python's own are."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.OpError, RuntimeError, OSError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        full = next((line for line in lines if any(text in line for text in DISK_ERRORS)), None)
        if full is None:
            raise
        reason = next(text for text in DISK_ERRORS if text in full)
        raise OSError(f"{directory} cannot be written: {reason}. Make room, and give the same command again") from error


def _image_encoder(
    encoder: "ImageEncoder | keras.Model | None", preprocessing: "ImagePreprocessing | None"
) -> "ImageEncoder | None":
    from keras_dml import ImageEncoder

    if isinstance(encoder, ImageEncoder):
        if preprocessing is not None:
            raise ValueError("An ImageEncoder has its own preprocessing: leave `preprocessing` out")
        return encoder
    if encoder is None and preprocessing is None:
        return None
    if encoder is None or preprocessing is None:
        raise ValueError("A keras.Model as `encoder` and `preprocessing` go together: pass both or neither")
    return ImageEncoder(encoder, preprocessing)


def _write_version(
    directory: pathlib.Path,
    folder: pathlib.Path,
    gallery: Gallery,
    image_encoder: "ImageEncoder | None",
    spec: IndexSpec,
    options: BuildOptions,
    progress: Progress,
) -> pathlib.Path:
    """Completes `folder`, which lies in `directory`, and publishes it. See `build_model` for the arguments."""
    spec = _with_metric(spec, image_encoder, gallery)
    rows = normalized(gallery.embeddings, spec.chosen_metric)
    index = build_index(rows, spec, options.queries, progress)
    memory_bytes, reranking = _save_graphs(folder, gallery, image_encoder, index, options, rows, progress)
    gallery.save(folder / GALLERY)
    save_encoder(image_encoder, options.pair_scorer, gallery.dim, folder)
    progress.message("measuring the saved model")
    content = {
        "name": options.name or directory.absolute().name,
        "version": 0,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "source": dict(options.source or {}),
        "embedding_dim": gallery.dim,
        "preprocessing": None if image_encoder is None else image_encoder.preprocessing.to_config(),
        "gallery": {"size": len(gallery), "metadata": {name: _kind(v) for name, v in gallery.metadata.items()}},
        "default_k": options.default_k,
        "changes_through": options.changes_through,
        "index": {
            **index.engine.to_manifest(index.settings),
            "chosen_for_recall": spec.recall if spec.is_open else None,
            "build_seconds": round(index.build_seconds, 3),
            "memory_bytes": memory_bytes,
        },
        "recall": None if index.calibration is None else vars(index.calibration),
        "reranking": reranking,
        "latency": None if not len(gallery) else _latency(folder, gallery),
    }
    while True:
        number = versions.next_version(directory) if options.number is None else options.number
        manifest.write(folder, {**content, "version": number}, index.engine.libraries)
        try:
            version = versions.publish(folder, directory, number)
            break
        except FileExistsError:
            if options.number is not None:
                raise
    if options.keep is not None:
        versions.prune(directory, options.keep)
    progress.message(f"wrote {version}")
    return version


def _with_metric(spec: IndexSpec, image_encoder: "ImageEncoder | None", gallery: Gallery) -> IndexSpec:
    """The spec with a metric; where none is given, the one that the encoder is evaluated by."""
    from keras_dml.evaluation import chosen_metric

    if spec.metric is not None or image_encoder is None:
        return spec
    return dataclasses.replace(spec, metric=chosen_metric(image_encoder.metric, gallery.embeddings))


def _save_graphs(
    folder: pathlib.Path,
    gallery: Gallery,
    image_encoder: "ImageEncoder | None",
    index: BuiltIndex,
    options: BuildOptions,
    rows: np.ndarray,
    progress: Progress,
) -> tuple[int, dict[str, Any] | None]:
    """Writes the SavedModel and its exact twin; returns the index's bytes in memory and what re-ranking does."""
    import tensorflow as tf

    from export.graph.search_module import SearchModule

    metric = index.settings.metric

    def save(searcher: "Searcher", target: pathlib.Path, pair_scorer: Any) -> None:
        module = SearchModule(
            searcher, gallery, metric, image_encoder, options.default_k, pair_scorer, options.shortlist
        )
        tf.saved_model.save(module, str(target), signatures=module.signatures())

    with tempfile.TemporaryDirectory(prefix="index-") as scratch:
        engine = engine_named(EXACT)
        settings = engine.choose(IndexSpec(EXACT, metric), *rows.shape)
        exact = engine.searcher(engine.build(rows, settings), settings, pathlib.Path(scratch))
        save(exact, folder / versions.EXACT, options.pair_scorer)
        searcher = exact
        if index.engine.name != EXACT:
            searcher = index.engine.searcher(index.index, index.settings, pathlib.Path(scratch))
        save(searcher, folder, options.pair_scorer)
        if options.pair_scorer is None:
            return searcher.memory_bytes, None
        plain = pathlib.Path(scratch) / "plain"
        save(searcher, plain, None)
        progress.message("measuring what re-ranking costs and gains")
        effect = reranking_effect(folder, plain, gallery)
        return searcher.memory_bytes, {"shortlist": options.shortlist, **effect}


def gallery_of(split: "Split", embeddings: np.ndarray) -> Gallery:
    """A split's ids and class names with the embeddings of its images."""
    names = np.array([*split.class_names, ""], dtype=object)[:-1]
    return Gallery(embeddings, tuple(split.ids), {"label": names[np.asarray(split.labels)]} if len(names) else {})


def _kind(values: np.ndarray) -> str:
    return "str" if values.dtype == object else values.dtype.name


def _latency(folder: pathlib.Path, gallery: Gallery, repeats: int = 100) -> dict[str, Any] | None:
    """Milliseconds per call of the saved `search_embeddings` with one query, after loading it again."""
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
    """The options about the index, those of every engine among them."""
    group = parser.add_argument_group("index", "By default the index is chosen by gallery size and calibrated.")
    group.add_argument(
        "--recall",
        type=float,
        metavar="R",
        help=f"recall at 10, against exact search, that the index must reach (default {DEFAULT_RECALL})",
    )
    group.add_argument(
        "--kind", type=current_kind, choices=kinds(), help="kind of index, instead of one chosen by the gallery's size"
    )
    group.add_argument("--metric", choices=METRICS, help="what near means (default: as the run was evaluated)")
    for name, text in _engine_options().items():
        group.add_argument(f"--{name.replace('_', '-')}", type=positive, metavar="N", help=text)
    group.add_argument(
        "--int8", action="store_true", default=None, help="keep 8-bit vectors: a quarter of the index's memory"
    )


def _engine_options() -> dict[str, str]:
    """The options of all engines; what several have has the text of each."""
    options: dict[str, str] = {}
    for engine in engines():
        for name, text in engine.options.items():
            options[name] = f"{options[name]}; {text}" if name in options else text
    return options


def index_spec(arguments: argparse.Namespace) -> IndexSpec:
    """What the options of `add_index_arguments` ask for."""
    given = {name: getattr(arguments, name) for name in _engine_options()}
    return IndexSpec(
        arguments.kind or AUTO,
        arguments.metric,
        DEFAULT_RECALL if arguments.recall is None else arguments.recall,
        int8=bool(arguments.int8),
        options={name: value for name, value in given.items() if value is not None},
    )


AFTER_INTERRUPT = "Interrupted; the same command goes on from here."


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = Parser(
        "build",
        "Embeds a gallery with a trained run and writes a model directory with the next version: a "
        "SavedModel that finds gallery items for images or embeddings, its exact twin without custom ops, and a "
        "manifest. An interrupted build goes on where it stopped when the same command is given again.",
        epilog="example: keras-dml build runs/digits --gallery digits --output models/digits",
    )
    result.add_argument("run", metavar="RUN", help="run or experiment folder, as zoo.reproduce writes it")
    result.add_argument("--gallery", required=True, metavar="DATA", help=HELP)
    result.add_argument(
        "--output",
        metavar="DIR",
        help="model directory; its name is the model's name when served (default RUN/export/NAME of the run)",
    )
    add_data_arguments(result)
    result.add_argument(
        "--queries", metavar="FILE", help=".npz with `embeddings` of queries to calibrate the index with"
    )
    result.add_argument(
        "--k", type=positive, default=10, help="neighbors returned where a request names none (default 10)"
    )
    result.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="images per forward pass (default 64)"
    )
    result.add_argument("--keep", type=positive, metavar="N", help="delete older versions but for the newest N")
    result.add_argument("--allow-empty", action="store_true", help="accept a gallery without items")
    result.add_argument("--no-thumbnails", action="store_true", help="store no pictures for the search page")
    result.add_argument(
        "--skip-unreadable", action=OldFlag, dest="bad_images", instead="--bad-images skip", value="skip"
    )
    result.add_argument(
        "--rerank",
        type=positive,
        metavar="N",
        help="re-rank the N nearest items with the run's PDDM unit; the manifest says what it costs and gains",
    )
    add_index_arguments(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = parser().parse_args(argv)
    return execute(lambda: print(_run(arguments, TerminalProgress())), AFTER_INTERRUPT)


def _run(arguments: argparse.Namespace, progress: Progress) -> pathlib.Path:
    from zoo.runs import open_run

    run = open_run(arguments.run)
    directory = pathlib.Path(arguments.output or pathlib.Path(arguments.run) / "export" / run.name)
    with wrong_call():
        check_folder(directory)
    data = open_source(arguments.gallery, arguments.data_dir, arguments.subset, arguments.bad_images)
    progress.message(f"{len(data):,} items in {arguments.gallery}")
    queries = None
    if arguments.queries:
        queries = read_npz(pathlib.Path(arguments.queries), ("embeddings",))["embeddings"]
    image_encoder = run.image_encoder()
    if arguments.rerank is not None and image_encoder.pair_scorer is None:
        raise WrongCallError(f"--rerank needs a run with a PDDM unit, and {run.folder} holds no pair_scorer.keras")
    cache = None
    if not isinstance(data, Gallery):
        key = cache_key(run.files.encoder, image_encoder.preprocessing, data)
        cache = directory / f"{versions.CACHE_PREFIX}{key}"
    options = BuildOptions(
        default_k=arguments.k,
        keep=arguments.keep,
        queries=queries,
        pair_scorer=None if arguments.rerank is None else image_encoder.pair_scorer,
        shortlist=arguments.rerank or 100,
        thumbnails=not arguments.no_thumbnails,
        source={**_source(run), "gallery": arguments.gallery},
        cache=cache,
        batch_size=arguments.batch_size,
        allow_empty=arguments.allow_empty,
    )
    version = build_model(
        directory, data, image_encoder, index=index_spec(arguments), options=options, progress=progress
    )
    if cache is not None:
        remove_cache(cache)
    versions.remove_caches(directory)
    return version


def _source(run: "SavedRun") -> dict[str, Any]:
    """What the manifest says of the run."""
    wanted = ("name", "arm", "seed", "benchmark", "versions")
    return {"run": str(run.folder), **{key: run.config[key] for key in wanted if key in run.config}}


if __name__ == "__main__":
    run(main)
