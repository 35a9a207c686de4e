"""Where the images of a split are kept."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


class ImageSource(Protocol):
    """Random access to `n` images, in two steps so that each runs where it is fast.

    `fetch` runs in Python, once for a batch; `encoded` or the array itself then goes through TensorFlow ops that run
    in parallel, one image each.
    """

    shape: tuple[int, int, int] | None
    """Height, width and channels where all images are decoded and of one shape; None for encoded images."""
    boxes: np.ndarray | None
    """`(n, 4)` float32 `ymin, xmin, ymax, xmax` to which images are cropped, in pixels; None for whole images."""
    relative_boxes: bool
    """Whether `boxes` are fractions of height and width instead of pixels."""

    def __len__(self) -> int: ...

    def fetch(self, rows: np.ndarray) -> np.ndarray:
        """The items of some rows: `(k, height, width, channels)` uint8 images, or `k` bytes objects."""
        ...

    def encoded(self, item: "tf.Tensor") -> "tf.Tensor":
        """The encoded image `()` string of a fetched item, where `shape` is None."""
        ...

    def subset(self, rows: Sequence[int] | np.ndarray) -> "ImageSource":
        """The same images with the given rows only, in that order."""
        ...

    def fingerprint(self) -> bytes:
        """Bytes that change when the images do, cheap to compute: contents of arrays, names and sizes of files."""
        ...
