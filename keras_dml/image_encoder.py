"""A trained encoder with the preprocessing that belongs to it: from images of any kind to embeddings."""

import dataclasses
import pathlib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dml.backend import replicas
from keras_dml.data import ImagePreprocessing, Split
from keras_dml.data.errors import unreadable_images_named
from keras_dml.data.sources import EncodedImages
from keras_dml.evaluation import check_metric
from keras_dml.typing import METRICS
from keras_dml.utils.encoder_files import CONTENT_FILE, ENCODER_FILE, PAIR_SCORER_FILE
from keras_dml.utils.files import check_regular, read_json_object, sha256, write_json, written_aside
from keras_dml.utils.keras_archive import check_declared_size, check_keras_archive
from keras_dml.utils.progress import SILENT, Progress

if TYPE_CHECKING:
    import keras

FORMAT = 1
AGAIN = "Copy the folder again, or save the encoder again"

Images = np.ndarray | Sequence[np.ndarray | bytes | str | pathlib.Path] | Split
"""What can be embedded; see `ImageEncoder.embed`."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageEncoder:
    """An encoder, how an image becomes its input, and where both come from.

    Args:
        encoder: Model from `(n, size, size, channels)` float32 images in [0, 255] to `(n, d)` embeddings.
        preprocessing: From an image of any size to an encoder input.
        pair_scorer: A learned similarity of pairs trained with the encoder (`keras_dml.layers.PDDMUnit`), or None.
        trained_on: What is known about the training, JSON-able and of any form: name, recipe, data, code, versions.
        metric: How its embeddings are to be compared: "cosine" or "euclidean". By default as the encoder's last layer
            tells, cosine where they have unit length; None where it does not tell.

    Raises:
        ValueError: Encoder and preprocessing do not fit each other.

    Example:

        >>> encoder = dml.ImageEncoder(model.encoder, dml.data.ImagePreprocessing(224))
        >>> embeddings = encoder.embed(["shoe.jpg", "boot.png"])
        >>> encoder.save("encoders/shoes")
        >>> encoder = dml.ImageEncoder.load("encoders/shoes")
    """

    encoder: "keras.Model"
    preprocessing: ImagePreprocessing
    pair_scorer: "keras.layers.Layer | None" = None
    trained_on: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metric: str | None = None

    def __post_init__(self) -> None:
        # A subclassed model has no input shape before its first call; what does not fit then fails there.
        expected = getattr(self.encoder, "input_shape", None) if self.encoder.built else None
        if isinstance(expected, tuple) and len(expected) == 4:
            given = self.preprocessing.input_shape
            if any(side is not None and side != other for side, other in zip(expected[1:], given, strict=True)):
                raise ValueError(
                    f"The preprocessing makes images of shape {given}, the encoder takes {tuple(expected[1:])}"
                )
        check_metric(self.metric)
        if self.metric is None:
            object.__setattr__(self, "metric", metric_of_encoder(self.encoder))
        object.__setattr__(self, "trained_on", types.MappingProxyType(dict(self.trained_on)))

    @property
    def embedding_dim(self) -> int:
        """Width d of the embeddings."""
        return int(self.encoder.compute_output_shape((None, *self.preprocessing.input_shape))[-1])

    def embed(self, images: Images, batch_size: int = 64, progress: Progress = SILENT) -> np.ndarray:
        """Embeds images of any size, in order; of the images, a few batches are in memory at a time.

        Args:
            images: `(n, height, width, 1 or 3)` or `(height, width, 1 or 3)` uint8; or a sequence of such single
                images, of paths and of encoded images (`bytes`), in any mixture; or a `Split`.
            batch_size: Images per forward pass.
            progress: Receives the number of embedded images, as the stage "embedding".

        Returns:
            `(n, d)` float32.

        Raises:
            DataError: A file is no image, or missing; the text names it.
            ValueError: An image is of another shape or type, or its embedding is not finite.
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be positive. Received: batch_size={batch_size}")
        splits = [images] if isinstance(images, Split) else _splits(images)
        total = sum(map(len, splits))
        embeddings: np.ndarray = np.zeros((total, self.embedding_dim), np.float32)
        done = 0
        progress.advance("embedding", done, total)
        for split in splits:
            for block in self.embed_batches(split, batch_size):
                embeddings[done : done + len(block)] = block
                done += len(block)
                progress.advance("embedding", done, total)
        return embeddings

    def embed_batches(self, split: Split, batch_size: int = 64, first: int = 0) -> Iterator[np.ndarray]:
        """Embeds the images of a split block by block.

        Args:
            split: The images.
            batch_size: Images of a block; the last may have fewer.
            first: Row to begin with, for work that goes on where it stopped.

        Yields:
            `(k, d)` float32, rows in order.

        Raises:
            DataError: As `embed`.
            ValueError: As `embed`.
        """
        rest = split.subset(np.arange(first, len(split)), renumber=False) if first else split
        done = 0
        with unreadable_images_named():
            for images in rest.dataset(self.preprocessing, batch_size):
                block: np.ndarray = replicas.predict(self.encoder, images).astype(np.float32, copy=False)
                finite = np.isfinite(block).all(axis=1)
                if not finite.all():
                    row = done + int(np.flatnonzero(~finite)[0])
                    raise ValueError(
                        f"The encoder's embedding of image {rest.ids[row]!r} is not finite. Its weights are not "
                        "finite, or overflow on this image"
                    )
                done += len(block)
                yield block

    def save(self, folder: str | pathlib.Path) -> pathlib.Path:
        """Writes `encoder.keras`, `pair_scorer.keras` where there is one, and `image_encoder.json` into `folder`.

        Each file is written atomically; the JSON file, which holds the checksums of the others, comes last.
        Other files in the folder stay.

        Returns:
            `folder`.
        """
        folder = pathlib.Path(folder)
        models = {ENCODER_FILE: self.encoder}
        if self.pair_scorer is not None:
            models[PAIR_SCORER_FILE] = pair_scorer_model(self.pair_scorer, self.embedding_dim)
        for name, model in models.items():
            with written_aside(folder / name) as aside:
                model.save(aside)
        content = {
            "format": FORMAT,
            "preprocessing": self.preprocessing.to_config(),
            "embedding_dim": self.embedding_dim,
            "metric": self.metric,
            "trained_on": dict(self.trained_on),
            "files": {name: {"sha256": sha256(folder / name)} for name in models},
        }
        write_json(folder / CONTENT_FILE, content)
        return folder

    @classmethod
    def load(cls, folder: str | pathlib.Path) -> "ImageEncoder":
        """Reads what `save` wrote. No code of the files is executed.

        Raises:
            FileNotFoundError: `folder` holds no image encoder.
            ValueError: A file is damaged, of another format, or not the one that was saved; the text names it.
        """
        folder = pathlib.Path(folder)
        path = folder / CONTENT_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} holds no {CONTENT_FILE}. Expected: a folder that ImageEncoder.save wrote, a finished run of "
                "zoo.reproduce, or a version of an exported model"
            )
        content = read_json_object(path, {"preprocessing": dict, "files": dict, "trained_on": dict})
        if content.get("format") != FORMAT:
            raise ValueError(f"{path} has another format. Expected: format {FORMAT}. Found: {content.get('format')!r}")
        missing = [key for key in ("preprocessing", "files", "trained_on") if content.get(key) is None]
        if missing:
            raise ValueError(f"{path} is damaged. Missing: {', '.join(missing)}. {AGAIN}")
        known = {ENCODER_FILE, PAIR_SCORER_FILE}
        if not known >= content["files"].keys() or not all(isinstance(v, dict) for v in content["files"].values()):
            raise ValueError(f"{path} is damaged. Expected: `files` to name {' and '.join(sorted(known))}. {AGAIN}")
        for name, entry in content["files"].items():
            file = folder / name
            found = sha256(file) if file.is_file() else "no such file"
            if found != entry.get("sha256"):
                raise ValueError(
                    f"{file} is not the file that was saved. Expected: sha256 {entry.get('sha256')}. Found: {found}. "
                    f"{AGAIN}"
                )
        # Before this was saved, every encoder was evaluated by cosine.
        metric = content.get("metric", "cosine")
        if metric is not None and metric not in METRICS:
            raise ValueError(
                f"{path} is damaged. Expected: `metric` to be {' or '.join(METRICS)}. Found: {metric!r}. {AGAIN}"
            )
        scorer = folder / PAIR_SCORER_FILE
        return cls(
            load_keras_model(folder / ENCODER_FILE),
            preprocessing_from(path, content["preprocessing"]),
            load_pair_scorer(scorer) if PAIR_SCORER_FILE in content["files"] else None,
            content["trained_on"],
            metric,
        )


def metric_of_encoder(encoder: "keras.Model") -> str | None:
    """The metric of an encoder: cosine where its embeddings have unit length, else Euclidean; None where unknown."""
    from keras_dml.backbones.unit_length import has_unit_length

    unit = has_unit_length(encoder)
    return None if unit is None else "cosine" if unit else "euclidean"


def load_keras_model(path: pathlib.Path) -> "keras.Model":
    """Loads a .keras model, with the layers of keras_dml registered and without its training configuration.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or needs code that is not registered with Keras; the text names it.
    """
    import keras

    from keras_dml import layers  # noqa: F401  registers what saved encoders are made of

    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}")
    check_regular(path)
    check_keras_archive(path)
    check_declared_size(path)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    # What Keras raises of an archive that anybody may have made: anything.
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded as a Keras model: {_keras_reason(error)}") from error


def preprocessing_from(path: pathlib.Path, config: Mapping[str, Any]) -> ImagePreprocessing:
    """The preprocessing that a file describes.

    Raises:
        ValueError: It is none; the text names the file.
    """
    try:
        return ImagePreprocessing.from_config(dict(config))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: `preprocessing` is {config!r}: {error}. {AGAIN}") from error


def _keras_reason(error: Exception) -> str:
    """What Keras says, in a sentence, with advice that is safe to follow."""
    # Keras wraps the reason in the configuration of all that is around it.
    text = str(error).rpartition("Exception encountered:")[2].strip() or type(error).__name__
    lambdas = "Lambda layer" in text or "lambda" in text
    unknown = re.search(r"Could not locate (?:class|function) '?([\w.>]{1,80})", text)
    if lambdas:
        return (
            "it holds a Lambda layer, that is, Python code, which is not run. Save the encoder again with a layer of a "
            "registered class in its place"
        )
    if unknown:
        return (
            f"it needs {unknown[1]}, which is not registered with Keras here. Import the module that defines it (under "
            "keras.saving.register_keras_serializable) first"
        )
    line = text.splitlines()[0]
    return line if len(line) <= 300 else f"{line[:300]} ..."


def pair_scorer_model(pair_scorer: "keras.layers.Layer", dim: int) -> "keras.Model":
    """A pair scorer as a model of two inputs `(n, dim)`, the form in which it is saved."""
    import keras

    first, second = keras.Input((dim,)), keras.Input((dim,))
    return keras.Model([first, second], pair_scorer([first, second]))


def load_pair_scorer(path: pathlib.Path) -> "keras.layers.Layer":
    """A pair scorer, saved as a layer or as a model of two inputs around it.

    Raises:
        ValueError: The file holds no pair scorer.
    """
    loaded = load_keras_model(path)
    for layer in [loaded, *getattr(loaded, "layers", [])]:
        if hasattr(layer, "rerank"):
            return layer
    raise ValueError(f"{path} holds no pair scorer. Expected: a PDDMUnit. Found: {type(loaded).__name__}")


def _splits(images: Any) -> list[Split]:
    """Images of any kind as splits: consecutive images of one kind and shape share one."""
    if isinstance(images, str | bytes | pathlib.Path):
        raise ValueError(f"`images` must be an array or a sequence of images. Received one {type(images).__name__}")
    if isinstance(images, np.ndarray) and images.dtype.kind not in "OSU":
        return [_unlabeled(images[None] if images.ndim == 3 else images)]
    kinds = {type(image).__name__ for image in images if not isinstance(image, np.ndarray | bytes | str | pathlib.Path)}
    if kinds:
        raise ValueError(
            "A sequence of `images` must hold uint8 arrays (height, width, 1 or 3), paths or encoded bytes. "
            f"Received: {kinds}"
        )
    splits: list[Split] = []
    start = 0
    for row in range(1, len(images) + 1):
        if row == len(images) or _kind(images[row]) != _kind(images[start]):
            splits.append(_unlabeled(images[start:row], start))
            start = row
    return splits


def _kind(image: Any) -> Any:
    if isinstance(image, np.ndarray):
        return image.shape, image.dtype
    return bytes if isinstance(image, bytes) else str


def _unlabeled(images: Any, start: int = 0) -> Split:
    """A split of images of one kind; `start` is the place of the first among all that are embedded."""
    ids = None
    if not isinstance(images, np.ndarray):
        if isinstance(images[0], np.ndarray):
            images = np.stack(images)
        elif isinstance(images[0], bytes):
            ids = [f"{start + row}: {len(item)} bytes" for row, item in enumerate(images)]
            images = EncodedImages(images)
        else:
            # The same file may be given twice, and ids may not.
            ids = [f"{start + row}: {path}" for row, path in enumerate(images)]
            for path in map(pathlib.Path, images):
                # What is not there is named where it is read; a pipe would be waited for.
                if path.exists():
                    check_regular(path)
    return Split(images, np.zeros(len(images), np.int32), ("",), ids)
