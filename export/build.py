"""`python -m export.build RUN --gallery DATA`: a trained run and a gallery become a searchable, servable model."""

import contextlib
import datetime
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from export import index as index_builder
from export import manifest, versions
from export.embedding import embed_split, thumbnails
from export.gallery import Gallery
from export.index_settings import IndexSettings

if TYPE_CHECKING:
    from keras_dml.data import ImagePreprocessing, Split

BRUTE_FORCE = "brute_force"
GALLERY = "gallery"


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
            thumbnails(split, folder / GALLERY, progress=lambda done, total: progress("pictures", done, total))
        if encoder is not None:
            encoder.save(folder / "encoder.keras")
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
    report: Callable[[str], None],
) -> pathlib.Path:
    """Completes `folder`, which lies in `directory`, and publishes it. See `build_model` for the arguments."""
    import tensorflow as tf

    from export import scann_ops
    from export.graph.exact_searcher import ExactSearcher
    from export.graph.scann_resource import ScannResource
    from export.graph.scann_searcher import ScannSearcher
    from export.graph.search_module import SearchModule

    metric = metric if settings is None else settings.metric
    rows = index_builder.normalised(gallery.embeddings, metric)
    index = index_builder.build(rows, settings, recall, queries, metric, calibrate, report)
    with tempfile.TemporaryDirectory(prefix="scann-") as scratch:
        searcher: Any = ExactSearcher(rows, metric)
        twin = SearchModule(searcher, gallery, metric, encoder, preprocessing, default_k)
        tf.saved_model.save(twin, str(folder / BRUTE_FORCE), signatures=twin.signatures())
        if index.searcher is not None:
            ops = scann_ops.register()
            tensors = ops.scann_to_tensors(index.searcher.searcher_handle)
            resource = ScannResource(ops, tensors, pathlib.Path(scratch))
            del tensors
            searcher = ScannSearcher(ops, resource, index.settings, len(gallery))
        module = SearchModule(searcher, gallery, metric, encoder, preprocessing, default_k)
        tf.saved_model.save(module, str(folder), signatures=module.signatures())
    gallery.save(folder / GALLERY)
    del twin, module, searcher
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
            "build_seconds": round(index.build_seconds, 3),
            "needs_scann": index.searcher is not None,
        },
        "recall": None if index.calibration is None else vars(index.calibration),
        "latency": _latency(folder, gallery),
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


def copy_pictures(old: pathlib.Path, new: pathlib.Path) -> None:
    """Copies the pictures of the search page from one gallery folder to another, where there are any."""
    new.mkdir(parents=True, exist_ok=True)
    for name in ("thumbnails.bin", "thumbnails.npy"):
        if (old / name).is_file():
            shutil.copyfile(old / name, new / name)
