"""P classes x K images per batch, every batch a function of the seed and the step alone."""

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dml.data.images import pillow
from keras_dml.data.images.decoding import decode
from keras_dml.data.images.preprocessing import ImagePreprocessing
from keras_dml.data.images.random_affine import RandomAffine
from keras_dml.data.images.random_resized_crop import RandomResizedCrop
from keras_dml.data.pipelines import parallel_batches, prefetched
from keras_dml.data.split import Split
from keras_dml.typing import Tensor
from keras_dml.utils.requirements import uses_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_dml.data.array_batches import ArrayBatches

BATCH_WORK = 2_000_000
"""Multiplications per image up to which a random crop by matrix products beats one by single ops."""


class PKBatches:
    """Training batches of `classes_per_batch` classes with `images_per_class` images each.

    Batch `n`, augmentation included, depends on the seed and `n` alone, so training can resume at any step with the
    same batches. Classes without images are never drawn. An image that cannot be read ends the training with an error
    that names it; `load(..., bad_images="skip")` leaves such images out beforehand.

    Args:
        split: The training images, of two classes at least.
        preprocessing: How an image becomes an encoder input where `augment` is None.
        classes_per_batch: P, classes drawn for a batch. More than there are is an error without `replacement`, and
            gives a warning with it.
        images_per_class: K, images drawn for each of them.
        seed: Any non-negative integer.
        replacement: True draws classes and images with replacement, as the DAS authors' code does: a class can come
            twice in a batch, and so can an image. False draws distinct classes, and distinct images in every class
            that has `images_per_class` of them; a smaller class repeats images.
        augment: A `RandomResizedCrop`, or any `augment(image, seed)` that turns a uint8 image
            `(height, width, channels)` and a `(2,)` int64 seed into an encoder input; instead of `preprocessing`. They
            are TensorFlow tensors in a `tf.data.Dataset`, NumPy arrays in a `PyDataset`.
    """

    def __init__(
        self,
        split: Split,
        preprocessing: ImagePreprocessing,
        classes_per_batch: int,
        images_per_class: int,
        seed: int = 0,
        replacement: bool = True,
        augment: Callable[[Tensor, Tensor], Tensor] | None = None,
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
        # Rows sorted by class; class k has `_counts[k]` of them from `_starts[k]` on.
        self._order = np.argsort(split.labels, kind="stable")
        self._counts = np.bincount(split.labels, minlength=split.num_classes)
        self._starts = np.cumsum(self._counts) - self._counts
        self._classes = np.flatnonzero(self._counts)
        if len(self._classes) < 2:
            raise ValueError(
                "Training needs images of two classes at least: one class has no negatives. "
                f"Received: {len(self._classes)} classes with images, {len(split)} images"
            )
        if not replacement and len(self._classes) < classes_per_batch:
            raise ValueError(
                f"A batch of {classes_per_batch} distinct classes needs as many classes with images. Received: "
                f"{len(self._classes)}. Lower `classes_per_batch`, or set replacement=True"
            )
        if replacement and len(self._classes) < classes_per_batch:
            warnings.warn(
                f"Every batch repeats classes: it draws {classes_per_batch} with replacement, and there are "
                f"{len(self._classes)} with images. Lower `classes_per_batch` for batches of distinct classes",
                UserWarning,
                stacklevel=2,
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
        """Row numbers of the images of batch `step`, `(P * K,)` int64, the images of each class side by side."""
        random = np.random.default_rng((self.seed, int(step)))
        classes = random.choice(self._classes, self.classes_per_batch, replace=self.replacement)
        counts = self._counts[classes][:, None]
        # Uniform in [0, 1) times a count is below the count: float64 has bits to spare.
        places = (random.random((self.classes_per_batch, self.images_per_class)) * counts).astype(np.int64)
        if not self.replacement:
            for place, count in zip(places, counts[:, 0], strict=True):
                if count >= self.images_per_class:
                    place[:] = random.choice(count, self.images_per_class, replace=False)
        return self._order[self._starts[classes][:, None] + places].reshape(-1)

    def seeds(self, step: int) -> np.ndarray:
        """Seeds of the augmentation of each image of batch `step`, `(P * K, 2)` int64."""
        run = np.random.SeedSequence(self.seed).generate_state(1, np.uint64).astype(np.int64)
        places: np.ndarray = int(step) * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        return np.stack([np.broadcast_to(run, places.shape), places], axis=1)

    def dataset(
        self, first_step: int = 0, steps: int | None = None, shard: tuple[int, int] = (0, 1)
    ) -> "tf.data.Dataset | ArrayBatches":
        """Batches `(images, labels)` from `first_step` on: `(P * K, size, size, channels)` float32, `(P * K,)` int32.

        A `tf.data.Dataset` under Keras's TensorFlow backend, else what `pydataset` returns.

        Args:
            first_step: Number of batches already used, when training resumes.
            steps: How many batches; without end by default.
            shard: `(i, n)`: rows of process i of n alone, `P * K / n` of each batch. The parts of all processes side
                by side, in order, are the batch of one process bit for bit; no process decodes another's images.

        Raises:
            ValueError: A batch cannot be divided among n processes, or i is none of them.
        """
        if not uses_tensorflow():
            return self.pydataset(first_step, steps, shard)
        import tensorflow as tf

        own = self._own(shard)
        count = own.stop - own.start
        last = np.iinfo(np.int64).max if steps is None else first_step + steps

        def draw(step: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            rows = self.rows(int(step))[own]
            return rows, self.split.labels[rows], self.seeds(int(step))[own]

        def fetch(step: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]":
            rows, labels, seeds = tf.numpy_function(draw, [step], [tf.int64, tf.int32, tf.int64], stateful=False)
            rows = tf.ensure_shape(rows, (count,))
            elements = {**self.split.fetch(rows), "seed": tf.ensure_shape(seeds, (count, 2))}
            return rows, tf.ensure_shape(labels, (count,)), elements

        def inputs(
            rows: "tf.Tensor", labels: "tf.Tensor", elements: "dict[str, tf.Tensor]"
        ) -> "tuple[tf.Tensor, tf.Tensor]":
            images = self._inputs(rows, elements, own)
            return tf.ensure_shape(images, (count, *self.preprocessing.input_shape)), labels

        fetched = tf.data.Dataset.range(first_step, last).map(fetch, num_parallel_calls=2, deterministic=True)
        # Encoded images are made in parallel within a batch; a second batch fills the gap at its end.
        parallel = 2 if self.split.source.shape is None else parallel_batches()
        return prefetched(fetched.map(inputs, num_parallel_calls=parallel, deterministic=True))

    def pydataset(
        self, first_step: int = 0, steps: int | None = None, shard: tuple[int, int] = (0, 1)
    ) -> "ArrayBatches":
        """`dataset` as a `keras.utils.PyDataset` of NumPy arrays, whatever the backend; needs no TensorFlow.

        The rows, the crops and the maps are those of `dataset`; pixels differ as the decoders and ops do (see
        `images.pillow`). With `steps`, pass `shuffle=False` to `fit`, which else shuffles the order of the batches.

        Args:
            first_step: As `dataset`.
            steps: As `dataset`.
            shard: As `dataset`.

        Raises:
            ValueError: As `dataset`.
            DataError: When it is iterated over, if an image cannot be read; the text names it.
        """
        from keras_dml.data.array_batches import ArrayBatches

        own = self._own(shard)

        def batch(number: int) -> tuple[np.ndarray, np.ndarray]:
            step = first_step + number
            rows = self.rows(step)[own]
            images = self._inputs_numpy(rows, self.seeds(step), own)
            expected = (len(rows), *self.preprocessing.input_shape)
            if images.shape != expected:
                raise ValueError(f"`augment` must make inputs of shape {expected[1:]}. Received: {images.shape[1:]}")
            return images.astype(np.float32, copy=False), self.split.labels[rows]

        return ArrayBatches(batch, steps, 2 if self.split.source.shape is None else parallel_batches())

    def _own(self, shard: tuple[int, int]) -> slice:
        """The places of a process's rows in a batch."""
        process, processes = shard
        if not 0 <= process < processes:
            raise ValueError(f"`shard` must be (i, n) with 0 <= i < n. Received: shard={shard}")
        if self.batch_size % processes:
            raise ValueError(
                f"A batch of {self.batch_size} images ({self.classes_per_batch} classes x {self.images_per_class}) "
                f"cannot be divided among {processes} processes. Choose a batch size that is a multiple of {processes}"
            )
        part = self.batch_size // processes
        return slice(process * part, (process + 1) * part)

    @property
    def _by_batch(self) -> bool:
        """Whether images are treated a batch at a time: faster for images of one shape, unless they are large."""
        shape = self.split.source.shape
        if shape is None or self.augment is None:
            return shape is not None
        return isinstance(self.augment, RandomResizedCrop) and self.augment.size * math.prod(shape) <= BATCH_WORK

    def _inputs(self, rows: "tf.Tensor", elements: "dict[str, tf.Tensor]", own: slice) -> "tf.Tensor":
        """The encoder inputs made of fetched images: the places `own` of a batch."""
        import tensorflow as tf

        augment, channels = self.augment, self.preprocessing.channels

        def make(encoded: "tf.Tensor", element: "dict[str, tf.Tensor]", *where: Any) -> "tf.Tensor":
            if isinstance(augment, RandomResizedCrop):
                return augment.decode(encoded, element["seed"], *where)
            image = decode(encoded, channels, *where)
            return self.preprocessing(image) if augment is None else augment(image, element["seed"])

        if self.split.source.shape is None:
            return self.split.read(rows, elements, make)
        images, seeds = elements["item"], elements["seed"]
        if augment is None:
            return self.preprocessing(images)
        if self._by_batch:
            assert isinstance(augment, RandomResizedCrop)
            if own.stop - own.start == self.batch_size:
                return augment.batch(images, seeds[0])
            # The whole batch draws from the seed of its first image.
            return augment.batch(images, seeds[0] - [0, own.start], own.start, self.batch_size)
        return tf.map_fn(lambda each: augment(*each), (images, seeds), fn_output_signature=tf.float32)

    def _inputs_numpy(self, rows: np.ndarray, seeds: np.ndarray, own: slice) -> np.ndarray:
        """The encoder inputs of the places `own` of a batch, `seeds` those of the whole batch."""
        augment, channels = self.augment, self.preprocessing.channels

        def one(image: np.ndarray, place: int) -> np.ndarray:
            seed = seeds[own.start + place]
            if isinstance(augment, RandomResizedCrop | RandomAffine):
                return augment.numpy(image, seed)
            return self.preprocessing.numpy(image) if augment is None else np.asarray(augment(image, seed))

        def make(encoded: bytes, place: int, *where: Any) -> np.ndarray:
            if isinstance(augment, RandomResizedCrop):
                return augment.decode_numpy(encoded, seeds[own.start + place], *where)
            return one(pillow.decode(encoded, channels, *where), place)

        if self.split.source.shape is None:
            return self.split.read_numpy(rows, make)
        images = self.split.source.fetch(rows)
        if augment is None:
            return self.preprocessing.numpy(images)
        if self._by_batch:
            assert isinstance(augment, RandomResizedCrop)
            return augment.batch_numpy(images, seeds[0], own.start, self.batch_size)
        if isinstance(augment, RandomAffine):
            return augment.numpy(images, seeds[own])
        return np.stack([one(image, place) for place, image in enumerate(images)])
