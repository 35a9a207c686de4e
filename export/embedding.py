"""Embedding a gallery of images, resumable and in bounded memory."""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from keras_dml.data import ImagePreprocessing, Split

SHARD_IMAGES = 2048


def embed_split(
    encoder: Any,
    preprocessing: "ImagePreprocessing",
    split: "Split",
    cache: pathlib.Path | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Embeds every image of a split in order.

    Args:
        encoder: keras.Model from `(n, size, size, channels)` float32 images to `(n, d)`.
        preprocessing: From an image to an encoder input.
        split: The images.
        cache: Folder for finished shards; a second call with the same folder goes on where the first stopped. The
            caller names it after what is embedded with what (`cache_key`), and removes it when done.
        batch_size: Images per forward pass.
        progress: Called with the number of images done and their total.

    Returns:
        `(n, d)` float32.

    Raises:
        ValueError: An image cannot be decoded, or its embedding is not finite.
    """
    import tensorflow as tf

    total, dim = len(split), int(encoder.output_shape[-1])
    embeddings: np.ndarray = np.zeros((total, dim), np.float32)
    done = 0
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        while done < total and (shard := _read_shard(cache, done, dim)) is not None:
            embeddings[done : done + len(shard)] = shard
            done += len(shard)
    progress(done, total)
    if done == total:
        return embeddings

    forward = tf.function(
        lambda images: tf.cast(encoder(images, training=False), tf.float32),
        input_signature=[tf.TensorSpec((None, *encoder.input_shape[1:]), tf.float32)],
    )
    shard_start = done
    rest = split.subset(np.arange(done, total)) if done else split
    batches = iter(rest.dataset(preprocessing, batch_size))
    while done < total:
        try:
            images = next(batches)
        except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, ValueError) as error:
            raise ValueError(_culprit(split, preprocessing, done, batch_size, error)) from error
        values = forward(images).numpy()
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            row = done + int(np.flatnonzero(~finite)[0])
            raise ValueError(f"The encoder's embedding of image {split.ids[row]!r} is not finite")
        embeddings[done : done + len(values)] = values
        done += len(values)
        if cache is not None and (done - shard_start >= SHARD_IMAGES or done == total):
            _write_shard(cache, shard_start, embeddings[shard_start:done])
            shard_start = done
        progress(done, total)
    return embeddings


def cache_key(encoder_path: pathlib.Path, preprocessing: "ImagePreprocessing", split: "Split") -> str:
    """Names what would be embedded: 16 hexadecimal digits of a checksum over encoder, preprocessing and images."""
    digest = hashlib.sha256()
    with open(encoder_path, "rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(json.dumps(preprocessing.to_config(), sort_keys=True).encode())
    digest.update(split.fingerprint.encode())
    # Where the images are files, a changed file is another image.
    for path in split.paths or ():
        digest.update(f"{os.stat(path).st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def remove_cache(cache: pathlib.Path) -> None:
    """Deletes the shards; what cannot be deleted harms nobody, as shards are checked when they are read."""
    shutil.rmtree(cache, ignore_errors=True)


def _read_shard(cache: pathlib.Path, start: int, dim: int) -> np.ndarray | None:
    path = cache / f"{start:09d}.npy"
    if not path.is_file():
        return None
    shard = np.load(path, allow_pickle=False)
    return shard if shard.ndim == 2 and shard.shape[1] == dim and len(shard) else None


def _write_shard(cache: pathlib.Path, start: int, values: np.ndarray) -> None:
    partial = cache / "partial.npy"
    np.save(partial, values)
    # A shard is there whole or not at all.
    os.replace(partial, cache / f"{start:09d}.npy")


def _culprit(split: "Split", preprocessing: "ImagePreprocessing", start: int, batch_size: int, error: Exception) -> str:
    # The pipeline prefetches, so the image that failed lies in this batch or shortly after.
    for row in range(start, min(len(split), start + 8 * batch_size)):
        try:
            preprocessing(split.image(row))
        except Exception as cause:
            text = (str(cause) or type(cause).__name__).splitlines()[0]
            return (
                f"Image {split.ids[row]!r} cannot be read: {text}. Remove or repair it; a second run goes on from here"
            )
    return f"An image after row {start} cannot be read: {error}"
