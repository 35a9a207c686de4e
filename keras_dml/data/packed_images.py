"""Encoded images inside larger files, such as TFRecord shards."""

import os
import pathlib
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


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


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
