"""Training augmentation for small images: a random affine map."""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from keras_dml.data.images import pillow
from keras_dml.data.images.philox import stateless_uniform
from keras_dml.data.images.preprocessing import check_input, convert_channels
from keras_dml.data.images.resampling import resize
from keras_dml.typing import Tensor
from keras_dml.utils.requirements import uses_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class RandomAffine:
    """Turns, stretches and shifts an image about its center, without mirroring; what is drawn depends on `seed` alone.

    Args:
        size: Side of the square result in pixels; an image of another size is resized first.
        channels: 1 for gray images, 3 for RGB.
        degrees: Largest turn either way.
        stretch: Width and height are each scaled by a factor log-uniform between 1 / (1 + stretch) and 1 + stretch.
        shift: Largest shift in each direction, as a share of the side.
        fill: Value of pixels that come from outside the image, in [0, 255].
    """

    size: int
    channels: int = 3
    degrees: float = 14.0
    stretch: float = 0.2
    shift: float = 0.125
    fill: float = 0.0

    def __post_init__(self) -> None:
        check_input(self.size, self.channels)
        for name in ("degrees", "stretch", "shift"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative. Received: {name}={getattr(self, name)}")

    def __call__(self, image: Tensor, seed: Tensor) -> Tensor:
        """Augments one image.

        Args:
            image: `(height, width, 1 or 3)` in [0, 255], any numeric dtype.
            seed: `(2,)` integers.

        Returns:
            `(size, size, channels)` float32 in [0, 255]: a TensorFlow tensor under that backend, else a NumPy array. A
            seed draws the same map under both.
        """
        if not uses_tensorflow(image, seed):
            return self.numpy(np.asarray(image), np.asarray(seed))
        return self._tensorflow(image, seed)

    def numpy(self, image: np.ndarray, seed: np.ndarray) -> np.ndarray:
        """The same in NumPy, whatever the backend: arrays go in and come out.

        Args:
            image: As `__call__`, or a batch `(n, height, width, 1 or 3)` of one size.
            seed: `(2,)` integers; for a batch `(n, 2)`, one for each image.

        Returns:
            `(size, size, channels)` or `(n, size, size, channels)` float32 in [0, 255].
        """
        if image.ndim == 3:
            return self.numpy(image[None], seed[None])[0]
        images = pillow.convert_channels(image.astype(np.float32), self.channels)
        size = self.size
        if images.shape[1:3] != (size, size):
            images = resize(images, (size, size), antialias=True)
        draw = (stateless_uniform(5, seed) * np.float32(2) - np.float32(1)).T[..., None, None]
        angle = draw[0] * np.float32(math.radians(self.degrees))
        stretch = np.exp(draw[1:3] * np.float32(math.log1p(self.stretch)))
        shift = draw[3:5] * np.float32(self.shift) * np.float32(size)
        center = np.float32((size - 1) / 2)
        place = np.arange(size, dtype=np.float32) - center
        x, y = place[None, None, :], place[None, :, None]
        # Where each pixel of the result comes from, `(n, size, size)`.
        from_x = (np.cos(angle) * x - np.sin(angle) * y) * stretch[0] + center + shift[0]
        from_y = (np.sin(angle) * x + np.cos(angle) * y) * stretch[1] + center + shift[1]
        left, top = np.floor(from_x), np.floor(from_y)
        right_share, bottom_share = (from_x - left)[..., None], (from_y - top)[..., None]
        # A border of one pixel on each side stands for all that lies outside.
        side = size + 2
        framed: np.ndarray = np.full((len(images), side, side, self.channels), self.fill, np.float32)
        framed[:, 1:-1, 1:-1] = images
        pixels = framed.reshape(-1, self.channels)
        first: np.ndarray = np.arange(len(images))[:, None, None] * side * side
        rows = [first + side * np.clip(top + 1 + k, 0, side - 1).astype(np.int64) for k in (0, 1)]
        columns = [np.clip(left + 1 + k, 0, side - 1).astype(np.int64) for k in (0, 1)]
        above, below = (
            (1 - right_share) * pixels[row + columns[0]] + right_share * pixels[row + columns[1]] for row in rows
        )
        return (1 - bottom_share) * above + bottom_share * below

    def _tensorflow(self, image: Tensor, seed: Tensor) -> "tf.Tensor":
        import tensorflow as tf

        image = convert_channels(tf.cast(image, tf.float32), self.channels)
        if image.shape[:2] != (self.size, self.size):
            image = tf.image.resize(image, (self.size, self.size), antialias=True)
        draw = tf.random.stateless_uniform((5,), seed, -1.0, 1.0)
        angle = draw[0] * math.radians(self.degrees)
        stretch = tf.exp(draw[1:3] * math.log1p(self.stretch))
        shift = draw[3:5] * self.shift * self.size
        # Rows map output pixels to input pixels: turn, stretch, then move so that the center maps to center + shift.
        across = tf.stack([tf.cos(angle) * stretch[0], -tf.sin(angle) * stretch[0]])
        down = tf.stack([tf.sin(angle) * stretch[1], tf.cos(angle) * stretch[1]])
        center = (self.size - 1) / 2
        transform = tf.concat(
            [
                across,
                [center + shift[0] - center * tf.reduce_sum(across)],
                down,
                [center + shift[1] - center * tf.reduce_sum(down)],
                tf.zeros(2),
            ],
            axis=0,
        )
        image = tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None],
            transforms=transform[None],
            output_shape=(self.size, self.size),
            fill_value=self.fill,
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        )[0]
        return tf.ensure_shape(image, (self.size, self.size, self.channels))
