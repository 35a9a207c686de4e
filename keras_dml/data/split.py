"""One side of a benchmark: images with labels and ids."""

import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from keras_dml.data.errors import BadImage, DataError
from keras_dml.data.images import pillow
from keras_dml.data.images.decoding import decode
from keras_dml.data.images.preprocessing import ImagePreprocessing
from keras_dml.data.pipelines import parallel_batches, prefetched
from keras_dml.data.sources import ArrayImages, FileImages, ImageSource
from keras_dml.utils.requirements import uses_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_dml.data.array_batches import ArrayBatches


class Split:
    """Images with integer labels and unique ids.

    Args:
        images: `(n, height, width, channels)` uint8 array, or `n` paths of image files, or any `ImageSource`.
        labels: `(n,)` integers in `[0, len(class_names))`.
        class_names: One name per class.
        ids: One unique string per image. By default the paths as given for files, row numbers for anything else.
    """

    def __init__(
        self,
        images: np.ndarray | Sequence[str | pathlib.Path] | ImageSource,
        labels: Sequence[int] | np.ndarray,
        class_names: Sequence[str],
        ids: Sequence[str] | None = None,
    ) -> None:
        self.source: ImageSource
        if isinstance(images, np.ndarray) and images.dtype.kind not in "UO":
            self.source = ArrayImages(images)
        elif hasattr(images, "fetch"):
            self.source = cast(ImageSource, images)
        else:
            self.source = FileImages(cast(Sequence[str | pathlib.Path], images))
        given = np.asarray(labels)
        # An empty list is an array of floats.
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise ValueError(
                f"Labels must be (n,) integers. Received: shape {given.shape}, dtype {given.dtype}. Number the "
                "classes from 0, in the order of their names"
            )
        self.class_names = tuple(class_names)
        if ids is None:
            ids = self.paths if self.paths is not None else [str(row) for row in range(len(given))]
        self.ids = tuple(ids)
        count = len(self.source)
        if not count == len(given) == len(self.ids):
            raise ValueError(
                "Images, labels and ids must be equally many. "
                f"Received: {count} images, {len(given)} labels, {len(self.ids)} ids"
            )
        if count and not (given.min() >= 0 and given.max() < len(self.class_names)):
            raise ValueError(
                f"Labels must lie in [0, {len(self.class_names)}), the number of class names. "
                f"Received: labels from {given.min()} to {given.max()}"
            )
        self.labels = given.astype(np.int32)
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

    @property
    def images(self) -> np.ndarray | None:
        """`(n, height, width, channels)` uint8 where the images are an array, else None."""
        return self.source.images if isinstance(self.source, ArrayImages) else None

    @property
    def paths(self) -> tuple[str, ...] | None:
        """The files where each image is one, else None."""
        return self.source.paths if isinstance(self.source, FileImages) else None

    @property
    def fingerprint(self) -> str:
        """Checksum of labels, names, ids and of what tells the images apart cheaply (pixels of an array, sizes of
        files), 16 hexadecimal digits: equal for two runs on the same data."""
        # Names of files need not be UTF-8: Python keeps their bytes as surrogates.
        digest = hashlib.sha256("\0".join((*self.class_names, "", *self.ids)).encode(errors="surrogateescape"))
        digest.update(self.labels.tobytes())
        digest.update(self.source.fingerprint())
        return digest.hexdigest()[:16]

    def subset(self, rows: Sequence[int] | np.ndarray, renumber: bool = True) -> "Split":
        """Some of the images.

        Args:
            rows: Which, in the order they shall have.
            renumber: True numbers the classes that remain from 0; False keeps labels and class names.
        """
        rows = np.asarray(rows, np.int64)
        labels, names = self.labels[rows], self.class_names
        if renumber:
            kept, labels = np.unique(labels, return_inverse=True)
            names = tuple(self.class_names[k] for k in kept)
        return Split(self.source.subset(rows), labels, names, [self.ids[row] for row in rows])

    def image(self, row: int) -> np.ndarray:
        """Image `row` decoded, `(height, width, channels)` uint8; RGB where the images are encoded.

        Raises:
            DataError: If it cannot be decoded; the text names it.
        """
        if not uses_tensorflow():
            return self.image_numpy(row)
        import tensorflow as tf

        item = self.source.fetch(np.array([row]))[0]
        if self.source.shape is not None:
            return item
        box = None if self.source.boxes is None else tf.constant(self.source.boxes[row])
        try:
            encoded = self.source.encoded(tf.constant(item))
            return decode(encoded, 3, box, self.source.relative_boxes).numpy()
        except tf.errors.OpError as error:
            raise DataError(f"The image {self.ids[row]!r} cannot be read: {_reason(error)}") from error

    def image_numpy(self, row: int) -> np.ndarray:
        """`image`, decoded with Pillow whatever the backend."""
        item = self.source.fetch(np.array([row]))[0]
        if self.source.shape is not None:
            return item
        try:
            return pillow.decode(self.source.read(item), 3, *self._where(row))
        except (DataError, OSError) as error:
            raise DataError(f"The image {self.ids[row]!r} cannot be read: {_reason(error)}") from error

    def _where(self, row: int) -> tuple[np.ndarray, bool] | tuple[()]:
        """The arguments `box` and `relative` of `decode`, where the images have boxes."""
        return () if self.source.boxes is None else (self.source.boxes[row], self.source.relative_boxes)

    def verify(self, workers: int | None = None) -> list[BadImage]:
        """Decodes every image and returns those that cannot be read; an array has none.

        Args:
            workers: Threads; as many as cores by default.
        """
        if self.source.shape is not None:
            return []

        def check(row: int) -> BadImage | None:
            try:
                self.image(row)
            except DataError as error:
                return BadImage(row, self.ids[row], str(error).partition(" cannot be read: ")[2])
            return None

        with ThreadPoolExecutor(workers) as pool:
            return [bad for bad in pool.map(check, range(len(self))) if bad is not None]

    def dataset(self, preprocessing: ImagePreprocessing, batch_size: int = 256) -> "tf.data.Dataset | ArrayBatches":
        """All images in order as batches `(batch, size, size, channels)`, float32 in [0, 255].

        A `tf.data.Dataset` under Keras's TensorFlow backend, else what `pydataset` returns. An image that cannot be
        read ends the iteration with an error that names it.
        """
        if not uses_tensorflow():
            return self.pydataset(preprocessing, batch_size)
        import tensorflow as tf

        rows = tf.data.Dataset.range(len(self)).batch(batch_size)
        if self.source.shape is not None:
            return prefetched(
                rows.map(lambda k: preprocessing(self.fetch(k)["item"]), num_parallel_calls=parallel_batches())
            )

        def example(encoded: "tf.Tensor", element: "dict[str, tf.Tensor]", *where: Any) -> "tf.Tensor":
            return preprocessing(decode(encoded, preprocessing.channels, *where))

        fetched = rows.map(lambda k: (k, self.fetch(k)), num_parallel_calls=2)
        return prefetched(fetched.map(lambda k, elements: self.read(k, elements, example)))

    def pydataset(self, preprocessing: ImagePreprocessing, batch_size: int = 256) -> "ArrayBatches":
        """`dataset` as a `keras.utils.PyDataset` of NumPy arrays, whatever the backend; needs no TensorFlow.

        Raises:
            DataError: When it is iterated over, if an image cannot be read; the text names it.
        """
        from keras_dml.data.array_batches import ArrayBatches

        def example(encoded: bytes, place: int, *where: Any) -> np.ndarray:
            return preprocessing.numpy(pillow.decode(encoded, preprocessing.channels, *where))

        def batch(number: int) -> np.ndarray:
            rows = np.arange(number * batch_size, min((number + 1) * batch_size, len(self)))
            if self.source.shape is not None:
                return preprocessing.numpy(self.source.fetch(rows))
            return self.read_numpy(rows, example)

        return ArrayBatches(batch, -(-len(self) // batch_size))

    def read_numpy(self, rows: np.ndarray, make: Callable[..., np.ndarray]) -> np.ndarray:
        """Makes an encoder input of every encoded image of a batch, in threads.

        Args:
            rows: `(n,)` row numbers, one at least.
            make: `make(encoded, place)`, or `make(encoded, place, box, relative)` where the images have boxes, returns
                an input `(height, width, channels)`; `place` counts `rows`.

        Returns:
            `(n, height, width, channels)`.

        Raises:
            DataError: An image cannot be read, or `make` fails on it; the text names the first such.
        """
        from keras_dml.data.array_batches import image_threads

        items = self.source.fetch(rows)

        def one(place: int) -> np.ndarray:
            return make(self.source.read(items[place]), place, *self._where(int(rows[place])))

        futures = [image_threads().submit(one, place) for place in range(len(rows))]
        made = []
        for row, future in zip(rows, futures, strict=True):
            try:
                made.append(future.result())
            except Exception as error:
                for other in futures:
                    other.cancel()
                raise self._unreadable(int(row), self.image_numpy) from error
        return np.stack(made)

    def fetch(self, rows: "tf.Tensor") -> "dict[str, tf.Tensor]":
        """A batch of rows as tensors: "item", and "box" where the images have boxes."""
        import tensorflow as tf

        source = self.source
        kinds = [tf.uint8 if source.shape is not None else tf.string]
        shapes: list[tuple[int, ...]] = [source.shape or ()]
        if source.boxes is not None:
            kinds.append(tf.float32)
            shapes.append((4,))

        def python(rows: np.ndarray) -> list[np.ndarray]:
            return [source.fetch(rows)] + ([] if source.boxes is None else [source.boxes[rows]])

        parts = tf.numpy_function(python, [rows], kinds, stateful=False)
        count = rows.shape[0]
        return {
            name: tf.ensure_shape(part, (count, *shape))
            for name, part, shape in zip(("item", "box"), parts, shapes, strict=False)
        }

    def read(
        self,
        rows: "tf.Tensor",
        elements: "dict[str, tf.Tensor]",
        make: "Callable[..., tf.Tensor]",
    ) -> "tf.Tensor":
        """Makes an encoder input of every encoded image of a batch, in parallel.

        A graph cannot catch the error of an op, but a dataset can leave out elements that fail. So the images go
        through a dataset of their own, together with their places in the batch: the places that do not come out are
        those of the images that could not be read. That costs once per batch, not per image.

        Args:
            rows: `(n,)` row numbers.
            elements: What `fetch` returns for them, and maybe other `(n, ...)` tensors.
            make: `make(encoded, element)`, or `make(encoded, element, box, relative)` where the images have boxes,
                returns an input `(height, width, channels)` of fixed shape; `box` and `relative` as for `decode`.

        Returns:
            `(n, height, width, channels)`.

        Raises:
            tf.errors.InvalidArgumentError: When it runs, if an image cannot be read; the text names it.
        """
        import tensorflow as tf

        def one(place: "tf.Tensor", element: "dict[str, tf.Tensor]") -> "tuple[tf.Tensor, tf.Tensor]":
            where = (element["box"], self.source.relative_boxes) if "box" in element else ()
            return place, make(self.source.encoded(element["item"]), element, *where)

        count = tf.shape(rows, tf.int64)[0]
        made = tf.data.Dataset.from_tensor_slices((tf.range(count), elements))
        made = made.map(one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        shape, kind = made.element_spec[1].shape, made.element_spec[1].dtype
        none = tf.data.Dataset.from_tensors((tf.zeros([0], tf.int64), tf.zeros([0, *shape], kind)))
        places, images = made.ignore_errors().batch(count).concatenate(none).take(1).get_single_element()
        images = tf.cond(
            tf.equal(tf.size(places, tf.int64), count),
            lambda: images,
            lambda: tf.numpy_function(self._explain, [rows, places], kind, stateful=False),
        )
        return tf.ensure_shape(images, (rows.shape[0], *shape))

    def _explain(self, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Raises the error about the first of `rows` that is not in `places`."""
        raise self._unreadable(int(np.delete(rows, places)[0]), self.image)

    def _unreadable(self, row: int, image: Callable[[int], np.ndarray]) -> DataError:
        """The error about an image of which no encoder input could be made."""
        try:
            image(row)
        except DataError as error:
            text = f"{error}. "
        else:
            text = (
                f"The image {self.ids[row]!r} can be decoded, but no encoder input could be made of it: the "
                "augmentation fails on it, or its file could not be read for a moment. "
            )
        return DataError(
            f'{text}To leave out what cannot be decoded, load with bad_images="skip" (--bad-images skip on the command '
            "line); Split.verify() lists it"
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.image(row) for row in range(len(self)))


def split_by_class(everything: Split, train_classes: int) -> tuple[Split, Split]:
    """Images with labels below `train_classes`, and the others."""
    train = everything.labels < train_classes
    return everything.subset(np.flatnonzero(train)), everything.subset(np.flatnonzero(~train))


def by_class_then_name(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Row order that is the same for every reader: by label, then by name."""
    return np.lexsort((np.asarray(names), labels))


def _reason(error: Exception) -> str:
    """What TensorFlow says, without the names of its ops."""
    text = getattr(error, "message", str(error)).splitlines()[0]
    text = text.partition("} ")[2] if text.startswith("{{") else text
    return text.partition(" [Op:")[0].rstrip(".")
