"""Handwritten digits that ship with scikit-learn: real scans, no download."""

import numpy as np

from keras_dml.data.benchmark import Benchmark
from keras_dml.data.loading import LoadOptions, register_benchmark, warn_ignored
from keras_dml.data.split import Split

IMAGES = 1797


@register_benchmark("digits")
def load_digits(options: LoadOptions) -> Benchmark:
    """Classes 0-4 for training (901 images), 5-9 for test (896), 8 x 8 gray scans with values in [0, 255].

    Args:
        options: Ignored, with a warning where they are set.
    """
    warn_ignored(options, "digits is part of scikit-learn")
    from sklearn.datasets import load_digits as bundled

    data = bundled()
    if data.images.shape != (IMAGES, 8, 8):
        raise ValueError(f"scikit-learn's digits should have shape ({IMAGES}, 8, 8). Received: {data.images.shape}")
    # Sixteen gray levels in the source.
    images = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]

    def side(first: int, last: int) -> Split:
        rows = np.flatnonzero((data.target >= first) & (data.target <= last))
        return Split(
            images[rows],
            data.target[rows] - first,
            [str(digit) for digit in range(first, last + 1)],
            [f"digit-{row:04d}" for row in rows],
        )

    return Benchmark("digits", train=side(0, 4), test=side(5, 9))
