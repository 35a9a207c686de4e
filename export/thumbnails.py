"""Small pictures of gallery items, end to end in one file."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from keras_dml.utils.progress import SILENT, Progress

if TYPE_CHECKING:
    from keras_dml.data import Split

SIDE = 128


class Thumbnails:
    """Pictures by row: `thumbnails.bin` holds the files, `thumbnails.npy` the `(n + 1,)` offsets into it.

    Args:
        file: thumbnails.bin, open.
        offsets: `(n + 1,)` int64.
    """

    def __init__(self, file: BinaryIO, offsets: np.ndarray) -> None:
        self._file = file
        self._offsets = offsets

    @classmethod
    def open(cls, folder: pathlib.Path) -> "Thumbnails | None":
        """The pictures in a gallery folder, or None where there are none."""
        if not (folder / "thumbnails.npy").is_file():
            return None
        return cls(open(folder / "thumbnails.bin", "rb"), np.load(folder / "thumbnails.npy", allow_pickle=False))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> bytes:
        """A PNG or JPEG file, or nothing for an item without a picture."""
        start, end = (int(value) for value in self._offsets[row : row + 2])
        # pread: no shared position between threads.
        return os.pread(self._file.fileno(), end - start, start)

    def size(self, row: int) -> int:
        """Bytes of an item's picture, 0 where it has none."""
        return int(self._offsets[row + 1] - self._offsets[row])

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    @staticmethod
    @contextlib.contextmanager
    def create(folder: pathlib.Path) -> Iterator[Callable[[bytes], None]]:
        """A function that appends a picture to a new file; offsets are written when the context ends."""
        folder.mkdir(parents=True, exist_ok=True)
        offsets = [0]
        with open(folder / "thumbnails.bin", "wb") as file:

            def append(content: bytes) -> None:
                file.write(content)
                offsets.append(offsets[-1] + len(content))

            yield append
        np.save(folder / "thumbnails.npy", np.array(offsets, np.int64))

    @staticmethod
    def encode(image: np.ndarray, side: int = SIDE) -> bytes:
        """A picture of at most `side` pixels: larger images are shrunk and kept as JPEG, others as PNG.

        Args:
            image: `(height, width, 1 or 3)` uint8.
            side: Pixels.
        """
        import tensorflow as tf

        largest = max(image.shape[:2])
        if largest <= side:
            return tf.io.encode_png(image).numpy()
        size = [max(1, round(length * side / largest)) for length in image.shape[:2]]
        small: Any = tf.clip_by_value(tf.image.resize(image, size, antialias=True), 0, 255)
        return tf.io.encode_jpeg(tf.cast(small, tf.uint8), quality=85).numpy()

    @classmethod
    def write(cls, split: "Split", folder: pathlib.Path, progress: Progress = SILENT) -> None:
        """Writes pictures of all images of a split into a gallery folder."""
        with cls.create(folder) as append:
            for row in range(len(split)):
                append(cls.encode(split.image(row)))
                progress.advance("pictures", row + 1, len(split))
