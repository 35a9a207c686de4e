"""How a test image of any size becomes an encoder's input."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dml.data.images import pillow
from keras_dml.data.images.decoding import luma
from keras_dml.data.images.resampling import resampled, taps
from keras_dml.typing import Tensor
from keras_dml.utils.requirements import uses_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class ImagePreprocessing:
    """Resizes the short side and crops the center: the same in evaluation, in an index build and in a served graph.

    Under Keras's TensorFlow backend, and for TensorFlow's tensors, it is made of that library's ops; under the other
    backends of NumPy. The two agree within 0.01 of 255.

    Args:
        size: Side of the square crop in pixels, the encoder's input size.
        resize: Length of the short side after resizing, in pixels; at least `size`. Equal to `size` by default.
        channels: 1 for gray images, 3 for RGB.
    """

    size: int
    resize: int | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        check_input(self.size, self.channels)
        if self.resize is None:
            object.__setattr__(self, "resize", self.size)
        elif isinstance(self.resize, bool) or not isinstance(self.resize, int | np.integer):
            raise ValueError(f"`resize` must be a whole number. Received: resize={self.resize!r}")
        elif self.resize < self.size:
            raise ValueError(
                "`resize`, the short side before cropping, must be at least `size`. "
                f"Received: resize={self.resize}, size={self.size}"
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one encoder input, `(size, size, channels)`."""
        return (self.size, self.size, self.channels)

    def __call__(self, image: Tensor) -> Tensor:
        """Makes encoder inputs of one image, or of a batch of images of one size.

        Args:
            image: `(height, width, channels)` or `(n, height, width, channels)` tensor in [0, 255], any numeric
                dtype; channels 1 or 3.

        Returns:
            `(size, size, channels)` or `(n, size, size, channels)` float32 in [0, 255]: a TensorFlow tensor under that
            backend, else a NumPy array.
        """
        if not uses_tensorflow(image):
            return self.numpy(np.asarray(image))
        import tensorflow as tf

        image = tf.convert_to_tensor(image)
        if image.shape.rank == 3:
            return self._batch(image[None])[0]
        return self._batch(image)

    def numpy(self, image: np.ndarray) -> np.ndarray:
        """The same in NumPy, whatever the backend: arrays go in and come out."""
        if image.ndim == 3:
            return self.numpy(image[None])[0]
        images = pillow.convert_channels(image, self.channels)
        assert self.resize is not None
        source = images.shape[1:3]
        target = [max(self.resize * side // min(source), self.resize) for side in source]
        if source == (self.size, self.size) and self.resize == self.size:
            return images.astype(np.float32)
        down, across = (
            taps(side, side / new, self.size, first=centered(new - self.size))
            for side, new in zip(source, target, strict=True)
        )
        return resampled(images, down, across)

    def _batch(self, images: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        images = convert_channels(images, self.channels)
        if images.dtype not in (tf.uint8, tf.float32):
            images = tf.cast(images, tf.float32)
        source = tf.shape(images)[1:3]
        # Integer arithmetic: the resized long side must not depend on float rounding.
        target = tf.maximum(self.resize * source // tf.reduce_min(source), self.resize)
        corner = centered(target - self.size)

        def enlarge() -> "tf.Tensor":
            # An antialiasing filter is the plain bilinear one where no side shrinks, and several times slower.
            resized = tf.raw_ops.ResizeBilinear(images=images, size=target, half_pixel_centers=True)
            return resized[:, corner[0] : corner[0] + self.size, corner[1] : corner[1] + self.size]

        def shrink() -> "tf.Tensor":
            # Resizes and crops at once: pixels outside the crop are never computed.
            return tf.raw_ops.ScaleAndTranslate(
                images=images,
                size=(self.size, self.size),
                scale=tf.cast(target, tf.float32) / tf.cast(source, tf.float32),
                translation=-tf.cast(corner, tf.float32),
                kernel_type="triangle",
                antialias=True,
            )

        shape = images.shape
        if shape[1] is not None and shape[2] is not None:
            if (shape[1], shape[2]) == (self.size, self.size) and self.resize == self.size:
                result = tf.cast(images, tf.float32)
            else:
                result = enlarge() if self.resize >= min(shape[1], shape[2]) else shrink()
        else:
            result = tf.cond(tf.reduce_all(target >= source), enlarge, shrink)
        return tf.ensure_shape(result, (shape[0], *self.input_shape))

    def to_config(self) -> dict[str, int]:
        """The arguments as a JSON-able dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, int]) -> "ImagePreprocessing":
        """The inverse of `to_config`."""
        return cls(**config)


def centered(room: Any) -> Any:
    """Where a center crop begins that leaves `room` pixels, an integer or a tensor of integers.

    Half a pixel goes to the even side, as in torchvision's `CenterCrop`, `int(round(room / 2.0))`.
    """
    return (room + room % 4 // 3) // 2


def check_input(size: int, channels: int) -> None:
    """Raises unless `size` is positive and `channels` is 1 or 3."""
    for name, value in (("size", size), ("channels", channels)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(f"`{name}` must be a whole number. Received: {name}={value!r}")
    if size < 1:
        raise ValueError(f"`size` must be a positive number of pixels. Received: size={size}")
    if channels not in (1, 3):
        raise ValueError(f"`channels` must be 1 (gray) or 3 (RGB). Received: channels={channels}")


def convert_channels(image: "tf.Tensor", channels: int) -> "tf.Tensor":
    """Converts an image `(..., height, width, 1 or 3)` to `channels` channels.

    Gray becomes RGB by repetition; RGB becomes gray as float32 luma (ITU-R 601).
    """
    import tensorflow as tf

    present = image.shape[-1]
    if present is None:
        # Known only at run time, as for decoded images in a served graph.
        gray = tf.equal(tf.shape(image)[-1], 1)
        image = tf.cond(gray, lambda: tf.repeat(image, 3, axis=-1), lambda: image)
        image = tf.ensure_shape(image, (*image.shape[:-1], 3))
        present = 3
    if present == channels:
        return image
    if present == 1 and channels == 3:
        return tf.repeat(image, 3, axis=-1)
    if present == 3 and channels == 1:
        return luma(tf.cast(image, tf.float32))
    raise ValueError(f"An image must have 1 or 3 channels. Received: {present} channels")
