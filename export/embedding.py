"""Embedding a gallery of images so that it can go on where it stopped."""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
from typing import TYPE_CHECKING

import numpy as np

from export.versions import OWNER_FILE
from keras_dml.utils.files import process_mark, sha256, written_aside
from keras_dml.utils.progress import SILENT, Progress

if TYPE_CHECKING:
    from keras_dml import ImageEncoder
    from keras_dml.data import ImagePreprocessing, Split

SHARD_IMAGES = 2048
DECODING = b"oriented, all formats"
"""Changes when the same file is decoded to other pixels: embeddings that were cached before are made anew."""


def embed_split(
    image_encoder: "ImageEncoder",
    split: "Split",
    cache: pathlib.Path | None = None,
    batch_size: int = 64,
    progress: Progress = SILENT,
) -> np.ndarray:
    """Embeds every image of a split in order.

    Args:
        image_encoder: The encoder.
        split: The images.
        cache: Folder for finished shards; a second call with the same folder goes on where the first stopped. The
            caller names it after what is embedded with what (`cache_key`), and removes it when done.
        batch_size: Images per forward pass.
        progress: Is told how many images are done, as the stage "embedding".

    Returns:
        `(n, d)` float32.

    Raises:
        ValueError: An image cannot be read, or its embedding is not finite; the text names it.
    """
    if cache is None:
        return image_encoder.embed(split, batch_size, progress)
    total, dim = len(split), image_encoder.embedding_dim
    embeddings: np.ndarray = np.zeros((total, dim), np.float32)
    done = 0
    cache.mkdir(parents=True, exist_ok=True)
    (cache / OWNER_FILE).write_text(process_mark(), encoding="utf-8")
    while done < total and (shard := _read_shard(cache, done, dim)) is not None:
        embeddings[done : done + len(shard)] = shard
        done += len(shard)
    progress.advance("embedding", done, total)
    if done == total:
        return embeddings
    shard_start = done
    # Closed here also where `progress` raises: an iterator left to the collector would keep its pipeline running.
    with contextlib.closing(image_encoder.embed_batches(split, batch_size, done)) as blocks:  # type: ignore[type-var]
        for block in blocks:
            embeddings[done : done + len(block)] = block
            done += len(block)
            if done - shard_start >= SHARD_IMAGES or done == total:
                _write_shard(cache, shard_start, embeddings[shard_start:done])
                shard_start = done
            progress.advance("embedding", done, total)
    return embeddings


def cache_key(encoder_path: pathlib.Path, preprocessing: "ImagePreprocessing", split: "Split") -> str:
    """Names what would be embedded: 16 hexadecimal digits of a checksum over encoder, preprocessing and images."""
    digest = hashlib.sha256(bytes.fromhex(sha256(encoder_path)))
    digest.update(DECODING)
    digest.update(json.dumps(preprocessing.to_config(), sort_keys=True).encode())
    digest.update(split.fingerprint.encode())
    # Where the images are files, a changed file is another image.
    for path in split.paths or ():
        digest.update(f"{os.stat(path).st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def remove_cache(cache: pathlib.Path) -> None:
    """Deletes the shards. Errors are ignored: shards are validated on read."""
    shutil.rmtree(cache, ignore_errors=True)


def _read_shard(cache: pathlib.Path, start: int, dim: int) -> np.ndarray | None:
    """The shard that begins at image `start`; None where it is missing or is not what was written."""
    for path in sorted(cache.glob(f"{start:09d}-*.npy")):
        content = path.read_bytes()
        if path.stem.partition("-")[2] != hashlib.sha256(content).hexdigest():
            continue
        shard = np.load(io.BytesIO(content), allow_pickle=False)
        if shard.ndim == 2 and shard.shape[1] == dim and len(shard):
            return shard
    return None


def _write_shard(cache: pathlib.Path, start: int, values: np.ndarray) -> None:
    stream = io.BytesIO()
    np.save(stream, values)
    content = stream.getvalue()
    with written_aside(cache / f"{start:09d}-{hashlib.sha256(content).hexdigest()}.npy") as aside:
        aside.write_bytes(content)
