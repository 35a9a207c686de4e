"""Encoded images in memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


class EncodedImages:
    """An image source over the bytes of JPEG, PNG, GIF (first frame), BMP or WebP files.

    Args:
        items: One bytes object per image.
    """

    shape: tuple[int, int, int] | None = None
    boxes: np.ndarray | None = None
    relative_boxes = False

    def __init__(self, items: Sequence[bytes]) -> None:
        self._items: np.ndarray = np.empty(len(items), dtype=object)
        self._items[:] = items

    def __len__(self) -> int:
        return len(self._items)

    def fetch(self, rows: np.ndarray) -> np.ndarray:
        """The encoded images as bytes objects."""
        return self._items[rows]

    def encoded(self, item: "tf.Tensor") -> "tf.Tensor":
        """The item itself."""
        return item

    def subset(self, rows: Sequence[int] | np.ndarray) -> "EncodedImages":
        """Some of the images."""
        return EncodedImages(self._items[np.asarray(rows, np.int64)].tolist())

    def fingerprint(self) -> bytes:
        """The bytes, end to end, after their lengths."""
        lengths = np.array([len(item) for item in self._items], np.int64)
        return lengths.tobytes() + b"".join(self._items)
