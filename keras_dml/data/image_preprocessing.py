"""How a test image of any size becomes an encoder's input."""

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class ImagePreprocessing:
    """Resize the short side, crop the centre: the same ops in evaluation, in an index build and in a served graph.

    Args:
        size: Side of the square crop in pixels, the encoder's input size.
        resize: Length of the short side after resizing, in pixels; at least `size`. Equal to `size` by default.
        channels: 1 for grey images, 3 for RGB.
    """

    size: int
    resize: int | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"`size` must be a positive number of pixels. Received: size={self.size}")
        if self.resize is None:
            object.__setattr__(self, "resize", self.size)
        elif self.resize < self.size:
            raise ValueError(
                "`resize`, the short side before cropping, must be at least `size`. "
                f"Received: resize={self.resize}, size={self.size}"
            )
        if self.channels not in (1, 3):
            raise ValueError(f"`channels` must be 1 (grey) or 3 (RGB). Received: channels={self.channels}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one encoder input, `(size, size, channels)`."""
        return (self.size, self.size, self.channels)

    def __call__(self, image: Any) -> "tf.Tensor":
        """Turns one image into an encoder input.

        Args:
            image: `(height, width, channels)` tensor in [0, 255], any numeric dtype; channels 1 or 3.

        Returns:
            `(size, size, channels)` float32 tensor in [0, 255].
        """
        import tensorflow as tf

        image = tf.cast(image, tf.float32)
        image = convert_channels(image, self.channels)
        shape = tf.shape(image)
        height, width = shape[0], shape[1]
        short = tf.minimum(height, width)
        # Integer arithmetic: the resized long side must not depend on float rounding.
        target_height = tf.maximum(self.resize * height // short, self.resize)
        target_width = tf.maximum(self.resize * width // short, self.resize)
        image = tf.image.resize(image, (target_height, target_width), method="bilinear", antialias=True)
        top = (target_height - self.size) // 2
        left = (target_width - self.size) // 2
        image = tf.slice(image, (top, left, 0), (self.size, self.size, self.channels))
        return tf.ensure_shape(image, self.input_shape)

    def to_config(self) -> dict[str, int]:
        """The arguments as a JSON-able dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, int]) -> "ImagePreprocessing":
        """The inverse of `to_config`."""
        return cls(**config)


def convert_channels(image: "tf.Tensor", channels: int) -> "tf.Tensor":
    """Converts a float image `(height, width, 1 or 3)` to `channels` channels (grey = ITU-R 601 luma)."""
    import tensorflow as tf

    present = image.shape[-1]
    if present is None:
        # Known only at run time, as for decoded images in a served graph.
        grey = tf.equal(tf.shape(image)[-1], 1)
        image = tf.cond(grey, lambda: tf.repeat(image, 3, axis=-1), lambda: image)
        image = tf.ensure_shape(image, (None, None, 3))
        present = 3
    if present == channels:
        return image
    if present == 1 and channels == 3:
        return tf.repeat(image, 3, axis=-1)
    if present == 3 and channels == 1:
        return tf.image.rgb_to_grayscale(image)
    raise ValueError(f"An image must have 1 or 3 channels. Received: {present} channels")
