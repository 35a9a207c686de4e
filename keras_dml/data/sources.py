"""Where the images of a split are kept: arrays, files, ranges of larger files, bytes in memory."""

import contextlib
import os
import pathlib
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from keras_dml.data.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf


class ImageSource(Protocol):
    """Random access to `n` images, in two steps so that each runs where it is fast.

    `fetch` runs in Python, once for a batch. What follows runs in parallel, one image each: in TensorFlow ops, with
    `encoded`, or in threads, with `read`.
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

    def read(self, item: Any) -> bytes:
        """`encoded` without TensorFlow: the encoded image's bytes."""
        ...

    def subset(self, rows: Sequence[int] | np.ndarray) -> "ImageSource":
        """The same images with the given rows only, in that order."""
        ...

    def fingerprint(self) -> bytes:
        """Bytes that change when the images do, cheap to compute: contents of arrays, names and sizes of files."""
        ...


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

    def read(self, item: Any) -> bytes:
        """As `encoded`."""
        raise TypeError("Images of an array are not encoded.")

    def subset(self, rows: Sequence[int] | np.ndarray) -> "ArrayImages":
        """A copy of some rows."""
        return ArrayImages(self.images[np.asarray(rows, np.int64)])

    def fingerprint(self) -> bytes:
        """The pixels."""
        return np.ascontiguousarray(self.images).data.tobytes()


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

    def read(self, item: bytes) -> bytes:
        """The file's bytes."""
        with open(item, "rb") as file:
            return file.read()

    def subset(self, rows: Sequence[int] | np.ndarray) -> "FileImages":
        """The same files with some rows only."""
        rows = np.asarray(rows, np.int64)
        return FileImages([self.paths[row] for row in rows], None if self.boxes is None else self.boxes[rows])

    def fingerprint(self) -> bytes:
        """Sizes of the files and the boxes; the names are the split's ids."""
        sizes = np.array([os.path.getsize(path) for path in self.paths], np.int64)
        return sizes.tobytes() + (b"" if self.boxes is None else self.boxes.tobytes())


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

    def read(self, item: bytes) -> bytes:
        """The item itself."""
        return item

    def subset(self, rows: Sequence[int] | np.ndarray) -> "EncodedImages":
        """Some of the images."""
        return EncodedImages(self._items[np.asarray(rows, np.int64)].tolist())

    def fingerprint(self) -> bytes:
        """The bytes, end to end, after their lengths."""
        lengths = np.array([len(item) for item in self._items], np.int64)
        return lengths.tobytes() + b"".join(self._items)


class PackedImages:
    """An image source over byte ranges of files: random access with nothing held in memory and nothing copied.

    Args:
        files: The files.
        file_index: `(n,)` index into `files` of each image.
        offsets: `(n,)` first byte of each image in its file.
        lengths: `(n,)` bytes of each image.
        boxes: `(n, 4)` `ymin, xmin, ymax, xmax` as fractions of height and width to which the images are cropped.
    """

    shape: tuple[int, int, int] | None = None
    relative_boxes = True

    def __init__(
        self,
        files: Sequence[str | pathlib.Path],
        file_index: np.ndarray,
        offsets: np.ndarray,
        lengths: np.ndarray,
        boxes: np.ndarray | None = None,
    ) -> None:
        self.files = tuple(str(path) for path in files)
        self.file_index = np.asarray(file_index, np.int64)
        self.offsets = np.asarray(offsets, np.int64)
        self.lengths = np.asarray(lengths, np.int64)
        self.boxes = None if boxes is None else np.asarray(boxes, np.float32)
        self._descriptors: dict[int, int] = {}
        weakref.finalize(self, _close, self._descriptors)

    def __len__(self) -> int:
        return len(self.offsets)

    def fetch(self, rows: np.ndarray) -> np.ndarray:
        """The encoded images as bytes objects."""
        items: np.ndarray = np.empty(len(rows), dtype=object)
        for place, row in enumerate(rows):
            length = int(self.lengths[row])
            # pread keeps no position and lets other threads run while the disk works.
            items[place] = os.pread(self._descriptor(int(self.file_index[row])), length, int(self.offsets[row]))
            if len(items[place]) != length:
                raise OSError(f"{self.files[self.file_index[row]]} has become shorter since it was indexed")
        return items

    def encoded(self, item: "tf.Tensor") -> "tf.Tensor":
        """The item itself."""
        return item

    def read(self, item: bytes) -> bytes:
        """The item itself."""
        return item

    def subset(self, rows: Sequence[int] | np.ndarray) -> "PackedImages":
        """The same files with some rows only."""
        rows = np.asarray(rows, np.int64)
        return PackedImages(
            self.files,
            self.file_index[rows],
            self.offsets[rows],
            self.lengths[rows],
            None if self.boxes is None else self.boxes[rows],
        )

    def fingerprint(self) -> bytes:
        """Lengths of the images and the boxes."""
        return self.lengths.tobytes() + (b"" if self.boxes is None else self.boxes.tobytes())

    def _descriptor(self, index: int) -> int:
        if index not in self._descriptors:
            descriptor = os.open(self.files[index], os.O_RDONLY)
            # Two threads may open the same file at once; the loser closes its own.
            if self._descriptors.setdefault(index, descriptor) != descriptor:
                os.close(descriptor)
        return self._descriptors[index]


class ArrayRecordImages(PackedImages):
    """An image source over records of ArrayRecord files, which are compressed in blocks.

    Args:
        files: The files.
        file_index: `(n,)` index into `files` of each image.
        records: `(n,)` number of each image's record in its file.
        offsets: `(n,)` first byte of each image in its record.
        lengths: `(n,)` bytes of each image.
        boxes: As for `PackedImages`.
    """

    def __init__(
        self,
        files: Sequence[str | pathlib.Path],
        file_index: np.ndarray,
        records: np.ndarray,
        offsets: np.ndarray,
        lengths: np.ndarray,
        boxes: np.ndarray | None = None,
    ) -> None:
        super().__init__(files, file_index, offsets, lengths, boxes)
        self.records = np.asarray(records, np.int64)
        self._readers = contextlib.ExitStack()
        self._open: dict[int, Any] = {}
        # The readers are not made for several threads.
        self._lock = threading.Lock()
        weakref.finalize(self, self._readers.close)

    def fetch(self, rows: np.ndarray) -> np.ndarray:
        """The encoded images as bytes objects."""
        items: np.ndarray = np.empty(len(rows), dtype=object)
        for place, row in enumerate(rows):
            number, offset = int(self.file_index[row]), int(self.offsets[row])
            with self._lock:
                if number not in self._open:
                    reader = array_record_reader(pathlib.Path(self.files[number]))
                    self._open[number] = self._readers.enter_context(reader)
                try:
                    record = self._open[number].read([int(self.records[row])])[0]
                except (RuntimeError, ValueError, IndexError) as error:
                    raise OSError(f"{self.files[number]} has changed since it was indexed: {error}") from error
            items[place] = record[offset : offset + int(self.lengths[row])]
        return items

    def subset(self, rows: Sequence[int] | np.ndarray) -> "ArrayRecordImages":
        """The same files with some rows only."""
        rows = np.asarray(rows, np.int64)
        return ArrayRecordImages(
            self.files,
            self.file_index[rows],
            self.records[rows],
            self.offsets[rows],
            self.lengths[rows],
            None if self.boxes is None else self.boxes[rows],
        )


@contextlib.contextmanager
def array_record_reader(path: pathlib.Path) -> Iterator[Any]:
    """A reader of an ArrayRecord file for random access.

    Raises:
        DataError: The file is damaged or of another kind.
        ImportError: The package array_record, which comes with TensorFlow Datasets, is not installed.
    """
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
        raise ImportError(f"{path} needs the package array_record: pip install array-record") from error
    try:
        reader = ArrayRecordReader(str(path), options="readahead_buffer_size:0", file_reader_buffer_size=32768)
        if not reader.ok():
            # Closing raises what is wrong.
            reader.close()
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{path} is no ArrayRecord file, or cut off: {error}. Prepare the data set again") from error
    try:
        yield reader
    finally:
        # One that has failed would raise that again.
        if reader.ok():
            reader.close()


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
