"""P classes x K images per batch, every batch a function of the seed and the step alone."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from keras_dml.data.image_preprocessing import ImagePreprocessing
from keras_dml.data.split import Split, decode_file

if TYPE_CHECKING:
    import tensorflow as tf


class ClassBatches:
    """Training batches of `classes_per_batch` classes with `images_per_class` images each.

    The rows of step `n` depend on the seed and `n` alone, so training can resume at any step with the same batches.

    Args:
        split: The training images.
        preprocessing: How an image becomes an encoder input where `augment` is None.
        classes_per_batch: P, classes drawn for a batch.
        images_per_class: K, images drawn for each of them.
        seed: Any non-negative integer.
        replacement: True draws classes and images with replacement, as the DAS authors' code does: a class can come
            twice in a batch, and so can an image. False draws distinct classes, and distinct images in every class
            that has `images_per_class` of them.
        augment: `augment(image, seed)` turns a uint8 image `(height, width, channels)` and a `(2,)` int32 seed into
            an encoder input, instead of `preprocessing`.
    """

    def __init__(
        self,
        split: Split,
        preprocessing: ImagePreprocessing,
        classes_per_batch: int,
        images_per_class: int,
        seed: int = 0,
        replacement: bool = True,
        augment: "Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None" = None,
    ) -> None:
        for name, value in (("classes_per_batch", classes_per_batch), ("images_per_class", images_per_class)):
            if value < 1:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        if seed < 0:
            raise ValueError(f"`seed` must not be negative. Received: seed={seed}")
        self.split = split
        self.preprocessing = preprocessing
        self.classes_per_batch = classes_per_batch
        self.images_per_class = images_per_class
        self.seed = seed
        self.replacement = replacement
        self.augment = augment
        order = np.argsort(split.labels, kind="stable")
        self._class_rows = np.split(order, np.cumsum(np.bincount(split.labels, minlength=split.num_classes))[:-1])
        self._classes = np.array([k for k, rows in enumerate(self._class_rows) if len(rows)])
        if not len(self._classes):
            raise ValueError("The training split holds no image.")
        if not replacement and len(self._classes) < classes_per_batch:
            raise ValueError(
                f"A batch of {classes_per_batch} distinct classes needs as many classes with images. Received: "
                f"{len(self._classes)}. Lower `classes_per_batch`, or set replacement=True"
            )

    @property
    def batch_size(self) -> int:
        """P * K, the images of a batch."""
        return self.classes_per_batch * self.images_per_class

    @property
    def steps_per_epoch(self) -> int:
        """Number of images // batch size, at least 1."""
        return max(1, len(self.split) // self.batch_size)

    def rows(self, step: int) -> np.ndarray:
        """Row numbers of the images of batch `step`, `(P * K,)` int64, the images of a class side by side."""
        random = np.random.default_rng((self.seed, int(step)))
        classes = random.choice(self._classes, self.classes_per_batch, replace=self.replacement)
        rows = [
            random.choice(
                self._class_rows[k],
                self.images_per_class,
                replace=self.replacement or len(self._class_rows[k]) < self.images_per_class,
            )
            for k in classes
        ]
        return np.concatenate(rows).astype(np.int64)

    def dataset(self, first_step: int = 0, steps: int | None = None) -> "tf.data.Dataset":
        """Batches `(images, labels)` from `first_step` on: `(P * K, size, size, channels)` float32, `(P * K,)` int32.

        Args:
            first_step: Number of batches already used, when training resumes.
            steps: How many batches; without end by default.
        """
        import tensorflow as tf

        batch = self.batch_size
        last = np.iinfo(np.int64).max if steps is None else first_step + steps
        labels = tf.constant(self.split.labels)
        if self.split.images is not None:
            images = tf.constant(self.split.images)

            def read(row: "tf.Tensor") -> "tf.Tensor":
                return tf.gather(images, row)
        else:
            paths = tf.constant(self.split.paths)

            def read(row: "tf.Tensor") -> "tf.Tensor":
                return decode_file(tf.gather(paths, row))

        def batch_rows(step: "tf.Tensor") -> "tf.data.Dataset":
            rows = tf.ensure_shape(tf.numpy_function(self.rows, [step], tf.int64, stateful=False), (batch,))
            positions = step * batch + tf.range(batch, dtype=tf.int64)
            return tf.data.Dataset.from_tensor_slices((rows, positions))

        def example(row: "tf.Tensor", position: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
            image = read(row)
            if self.augment is None:
                image = self.preprocessing(image)
            else:
                # Two 32-bit words of seed: one of the run, one of the image's place in the run.
                image = self.augment(image, tf.stack([tf.cast(self.seed, tf.int32), tf.cast(position, tf.int32)]))
            return tf.ensure_shape(image, self.preprocessing.input_shape), tf.gather(labels, row)

        return (
            tf.data.Dataset.range(first_step, last)
            .flat_map(batch_rows)
            .map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .batch(batch, drop_remainder=True)
            .prefetch(tf.data.AUTOTUNE)
        )
