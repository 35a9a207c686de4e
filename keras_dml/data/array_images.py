"""Decoded images of one shape, in memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


class ArrayImages:
    """An image source over a uint8 array.

    Args:
        images: `(n, height, width, 1 or 3)` uint8.
    """

    boxes: np.ndarray | None = None
    relative_boxes = False

    def __init__(self, images: np.ndarray) -> None:
        if images.dtype != np.uint8:
            raise ValueError(
                f"`images` must be uint8, in [0, 255]. Received: dtype={images.dtype}. Scale and cast the array first."
            )
        if images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(
                "`images` as an array must have shape (n, height, width, 1 or 3). "
                f"Received: images.shape={images.shape}"
            )
        self.images = images
        self.shape: tuple[int, int, int] | None = images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, rows: np.ndarray) -> np.ndarray:
        """`(k, height, width, channels)` uint8 images."""
        return self.images[rows]

    def encoded(self, item: "tf.Tensor") -> "tf.Tensor":
        """Arrays are decoded already."""
        raise TypeError("Images of an array are not encoded.")

    def subset(self, rows: Sequence[int] | np.ndarray) -> "ArrayImages":
        """A copy of some rows."""
        return ArrayImages(self.images[np.asarray(rows, np.int64)])

    def fingerprint(self) -> bytes:
        """The pixels."""
        return np.ascontiguousarray(self.images).data.tobytes()
