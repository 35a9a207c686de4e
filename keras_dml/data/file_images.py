"""Image files."""

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


class FileImages:
    """An image source over files: JPEG, PNG, GIF (first frame) or BMP.

    Args:
        paths: One path per image.
        boxes: `(n, 4)` `ymin, xmin, ymax, xmax` in pixels to which the images are cropped.
    """

    shape: tuple[int, int, int] | None = None
    relative_boxes = False

    def __init__(self, paths: Sequence[str | pathlib.Path], boxes: np.ndarray | None = None) -> None:
        self.paths = tuple(str(path) for path in paths)
        self.boxes = None if boxes is None else np.asarray(boxes, np.float32)
        self._items = np.array([os.fsencode(path) for path in self.paths] + [b""], dtype=object)[:-1]

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, rows: np.ndarray) -> np.ndarray:
        """The paths; files are opened by `encoded`, many at a time."""
        return self._items[rows]

    def encoded(self, item: "tf.Tensor") -> "tf.Tensor":
        """The file's bytes."""
        import tensorflow as tf

        return tf.io.read_file(item)

    def subset(self, rows: Sequence[int] | np.ndarray) -> "FileImages":
        """The same files with some rows only."""
        rows = np.asarray(rows, np.int64)
        return FileImages([self.paths[row] for row in rows], None if self.boxes is None else self.boxes[rows])

    def fingerprint(self) -> bytes:
        """Sizes of the files and the boxes; the names are the split's ids."""
        sizes = np.array([os.path.getsize(path) for path in self.paths], np.int64)
        return sizes.tobytes() + (b"" if self.boxes is None else self.boxes.tobytes())
