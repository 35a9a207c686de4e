"""Training augmentation for small images: a random affine map."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from keras_dml.data.images.preprocessing import check_input, convert_channels

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class RandomAffine:
    """Turns, stretches and shifts an image about its center, without mirroring; what is drawn depends on `seed` alone.

    Args:
        size: Side of the square result in pixels; an image of another size is resized first.
        channels: 1 for grey images, 3 for RGB.
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

    def __call__(self, image: Any, seed: Any) -> "tf.Tensor":
        """Augments one image.

        Args:
            image: `(height, width, 1 or 3)` in [0, 255], any numeric dtype.
            seed: `(2,)` integers.

        Returns:
            `(size, size, channels)` float32 in [0, 255].
        """
        import tensorflow as tf

        image = convert_channels(tf.cast(image, tf.float32), self.channels)
        if image.shape[:2] != (self.size, self.size):
            image = tf.image.resize(image, (self.size, self.size), antialias=True)
        draw = tf.random.stateless_uniform((5,), seed, -1.0, 1.0)
        angle = draw[0] * math.radians(self.degrees)
        stretch = tf.exp(draw[1:3] * math.log1p(self.stretch))
        shift = draw[3:5] * self.shift * self.size
        # Rows map output pixels to input pixels: turn, stretch, then move so that the centre maps to center + shift.
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
