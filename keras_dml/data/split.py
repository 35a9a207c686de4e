"""One side of a benchmark: images with labels and ids."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_dml.data.image_preprocessing import ImagePreprocessing

if TYPE_CHECKING:
    import tensorflow as tf


class Split:
    """Images held in memory or as files, with integer labels and unique ids.

    Args:
        images: `(n, height, width, channels)` uint8 array, or `n` paths of image files.
        labels: `(n,)` integers in `[0, len(class_names))`.
        class_names: One name per class.
        ids: One unique string per image. Row numbers by default for arrays, the paths as given for files.
    """

    def __init__(
        self,
        images: np.ndarray | Sequence[str | pathlib.Path],
        labels: Sequence[int] | np.ndarray,
        class_names: Sequence[str],
        ids: Sequence[str] | None = None,
    ) -> None:
        self.images: np.ndarray | None = None
        self.paths: tuple[str, ...] | None = None
        if isinstance(images, np.ndarray) and images.dtype == np.uint8:
            if images.ndim != 4 or images.shape[-1] not in (1, 3):
                raise ValueError(
                    "`images` as an array must have shape (n, height, width, 1 or 3). "
                    f"Received: images.shape={images.shape}"
                )
            self.images = images
        elif isinstance(images, np.ndarray) and images.dtype.kind not in "UO":
            raise ValueError(
                f"`images` must be uint8, in [0, 255]. Received: dtype={images.dtype}. Scale and cast the array first."
            )
        else:
            self.paths = tuple(str(path) for path in images)
        self.labels = np.asarray(labels, dtype=np.int32)
        self.class_names = tuple(class_names)
        if ids is None:
            ids = self.paths if self.paths is not None else [str(row) for row in range(len(self.labels))]
        self.ids = tuple(ids)
        count = len(self.images) if self.images is not None else len(self.paths or ())
        if not count == len(self.labels) == len(self.ids):
            raise ValueError(
                "Images, labels and ids must be equally many. "
                f"Received: {count} images, {len(self.labels)} labels, {len(self.ids)} ids"
            )
        if count and not (self.labels.min() >= 0 and self.labels.max() < len(self.class_names)):
            raise ValueError(
                f"Labels must lie in [0, {len(self.class_names)}), the number of class names. "
                f"Received: labels from {self.labels.min()} to {self.labels.max()}"
            )
        if len(set(self.ids)) != count:
            seen: set[str] = set()
            twice = next(name for name in self.ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise ValueError(f"Ids must be unique. Received twice: {twice!r}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of class names; a class may be empty."""
        return len(self.class_names)

    def subset(self, rows: Sequence[int] | np.ndarray) -> "Split":
        """The given rows, with the classes that remain renumbered from 0."""
        rows = np.asarray(rows)
        kept, labels = np.unique(self.labels[rows], return_inverse=True)
        images = self.images[rows] if self.images is not None else [self._paths()[row] for row in rows]
        return Split(images, labels, [self.class_names[k] for k in kept], [self.ids[row] for row in rows])

    def image(self, row: int) -> np.ndarray:
        """Image `row` decoded, `(height, width, channels)` uint8."""
        if self.images is not None:
            return self.images[row]
        return decode_file(self._paths()[row]).numpy()

    def dataset(self, preprocessing: ImagePreprocessing, batch_size: int = 256) -> "tf.data.Dataset":
        """All images in order as batches `(batch, size, size, channels)`, float32 in [0, 255]."""
        import tensorflow as tf

        if self.images is not None:
            source = tf.data.Dataset.range(len(self))
            images = self.images

            def read(row: "tf.Tensor") -> "tf.Tensor":
                return tf.ensure_shape(tf.numpy_function(lambda r: images[r], [row], tf.uint8), images.shape[1:])
        else:
            source = tf.data.Dataset.from_tensor_slices(list(self._paths()))
            read = decode_file
        return (
            source.map(lambda item: preprocessing(read(item)), num_parallel_calls=tf.data.AUTOTUNE)
            .batch(batch_size)
            .prefetch(tf.data.AUTOTUNE)
        )

    def _paths(self) -> tuple[str, ...]:
        assert self.paths is not None
        return self.paths

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.image(row) for row in range(len(self)))


def decode_file(path: "str | tf.Tensor") -> "tf.Tensor":
    """Reads an image file as `(height, width, 3)` uint8 RGB (a GIF's first frame); grey images are repeated."""
    import tensorflow as tf

    image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))
