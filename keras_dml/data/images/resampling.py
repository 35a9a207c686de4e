"""Bilinear resizing in NumPy: what TensorFlow's ops compute, as separable weights of neighboring pixels."""

from typing import NamedTuple

import numpy as np


class Taps(NamedTuple):
    """The pixels of one axis that make up each new pixel.

    Args:
        rows: `(taps, n)` int64 places of the old pixels.
        weights: `(taps, n)` float32; they sum to 1 over the taps.
    """

    rows: np.ndarray
    weights: np.ndarray


def taps(side: int, scale: float, count: int, first: int = 0, antialias: bool = True) -> Taps:
    """Weights of a triangle around the center of each new pixel (half-pixel centers).

    Args:
        side: Pixels there are.
        scale: Old pixels per new pixel.
        count: New pixels wanted.
        first: Number of the first of them.
        antialias: Whether the triangle widens with `scale` where the axis shrinks, as in TensorFlow's and Pillow's
            antialiased resize; otherwise it covers two pixels.
    """
    centers = (np.arange(first, first + count) + 0.5) * scale - 0.5
    width = max(scale, 1.0) if antialias else 1.0
    # Beyond the edge lies the pixel at the edge. A wide triangle is cut off there instead, and weighed anew.
    centers = centers if width > 1.0 else np.clip(centers, 0, side - 1)
    offsets = np.arange(int(np.ceil(2 * width)) + 1)[:, None]
    rows = np.floor(centers - width).astype(np.int64) + offsets
    weights = np.maximum(0.0, 1.0 - np.abs(rows - centers) / width)
    weights[(rows < 0) | (rows >= side)] = 0.0
    weights /= weights.sum(axis=0)
    used = weights.any(axis=1)
    return Taps(np.clip(rows[used], 0, side - 1), weights[used].astype(np.float32))


def resampled(images: np.ndarray, down: Taps, across: Taps) -> np.ndarray:
    """Resizes both axes of images of one size.

    Sums of whole slices: every image gets the same numbers, alone or in a batch.

    Args:
        images: `(n, height, width, channels)`, any numeric dtype.
        down: The new rows.
        across: The new columns.

    Returns:
        `(n, new height, new width, channels)` float32.
    """
    left, right = int(across.rows.min()), int(across.rows.max()) + 1
    images = images[:, :, left:right]
    result = _weighted(images, down, axis=1)
    return _weighted(result, Taps(across.rows - left, across.weights), axis=2)


def _weighted(images: np.ndarray, axis_taps: Taps, axis: int) -> np.ndarray:
    shape = [1] * images.ndim
    shape[axis] = -1
    result: np.ndarray | None = None
    for rows, weights in zip(*axis_taps, strict=True):
        part = np.take(images, rows, axis=axis).astype(np.float32, copy=False) * weights.reshape(shape)
        result = part if result is None else np.add(result, part, out=result)
    assert result is not None
    return result


def resize(images: np.ndarray, size: tuple[int, int], antialias: bool) -> np.ndarray:
    """`tf.image.resize(images, size, "bilinear", antialias=antialias)`, up to rounding.

    Args:
        images: `(n, height, width, channels)`, any numeric dtype.
        size: New height and width.
        antialias: Whether sides that shrink are filtered.

    Returns:
        `(n, *size, channels)` float32.
    """
    down, across = (
        taps(side, side / new, new, antialias=antialias) for side, new in zip(images.shape[1:3], size, strict=True)
    )
    return resampled(images, down, across)
