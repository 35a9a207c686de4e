"""Training augmentation: a random part of the image, resized, half of the time mirrored."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from keras_dml.data.images.decoding import box_window, cut, decode_jpeg, decode_other, is_jpeg
from keras_dml.data.images.preprocessing import check_input, convert_channels

if TYPE_CHECKING:
    import tensorflow as tf

TRIES = 10
NUMBERS = 4 * TRIES + 1
"""Random numbers of an image: area, ratio and two coordinates of each try, and the mirror."""
JPEG_RATIOS = (8, 4, 2)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A random crop of random area and aspect ratio, resized to a square, then a random mirror image.

    The crop is drawn as torchvision's `RandomResizedCrop` draws it: ten tries at an area uniform in `scale` and a
    log-uniform aspect ratio, the first that fits at a uniform place; if none fits, the largest central crop with a
    permitted aspect ratio. What is drawn depends on `seed` alone.

    Resizing is bilinear, with an antialiasing filter where the crop is shrunk: what Pillow, and so torchvision, does.
    Much larger JPEGs (by 4, 8 or 16) are decoded at 1/2, 1/4 or 1/8 of their size first. Without `antialias`, shrinking
    by less than 2 is plain bilinear, which takes half the processor time on photographs of 500 x 375 at size 224 and
    lets a little aliasing through.

    Args:
        size: Side of the result in pixels.
        channels: 1 for grey images, 3 for RGB.
        scale: Least and largest area of the crop as a share of the image's.
        ratio: Least and largest width / height of the crop.
        flip: Probability of mirroring left and right.
        antialias: Whether every crop that is shrunk is filtered, not only those that shrink by 2 and more.
    """

    size: int
    channels: int = 3
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    antialias: bool = True

    def __post_init__(self) -> None:
        check_input(self.size, self.channels)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"`scale` must be two shares of the area, 0 < a <= b <= 1. Received: scale={self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"`ratio` must be two ratios, 0 < a <= b. Received: ratio={self.ratio}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"`flip` must be a probability. Received: flip={self.flip}")

    def __call__(self, image: Any, seed: Any) -> "tf.Tensor":
        """Augments a decoded image.

        Args:
            image: `(height, width, 1 or 3)` in [0, 255], any numeric dtype.
            seed: `(2,)` integers.

        Returns:
            `(size, size, channels)` float32 in [0, 255].
        """
        import tensorflow as tf

        image = tf.convert_to_tensor(image)
        shape = tf.shape(image)
        window, mirror = self.draw(shape[0], shape[1], seed)
        return self._finish(cut(image, window), mirror)

    def decode(
        self,
        encoded: "tf.Tensor",
        seed: Any,
        box: "tf.Tensor | None" = None,
        relative: bool = False,
    ) -> "tf.Tensor":
        """Decodes and augments, without decoding more of a JPEG than is needed.

        Args:
            encoded: `()` string.
            seed: `(2,)` integers.
            box: `(4,)` `ymin, xmin, ymax, xmax`: the part of the image that is augmented.
            relative: Whether `box` is in fractions of height and width instead of pixels.

        Returns:
            `(size, size, channels)` float32 in [0, 255].
        """
        import tensorflow as tf

        def place(height: "tf.Tensor", width: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
            if box is None:
                return self.draw(height, width, seed)
            region = box_window(box, relative, height, width)
            window, mirror = self.draw(region[2], region[3], seed)
            return window + tf.concat([region[:2], tf.zeros(2, tf.int32)], axis=0), mirror

        def jpeg() -> "tf.Tensor":
            shape = tf.io.extract_jpeg_shape(encoded)
            window, mirror = place(shape[0], shape[1])
            shrink = tf.reduce_min(window[2:]) // self.size

            def at(ratio: int) -> "tf.Tensor":
                return decode_jpeg(encoded, self.channels, shape[2], window // ratio, ratio)

            # The decoder averages; where a filter follows, at least a factor of 2 is left to it.
            rest = 2 if self.antialias else 1
            image = tf.case(
                [(shrink >= rest * ratio, lambda ratio=ratio: at(ratio)) for ratio in JPEG_RATIOS],
                default=lambda: at(1),
            )
            image = tf.ensure_shape(image, (None, None, self.channels))
            return self._finish(image, mirror) if self.antialias else self._resized(image, mirror, antialias=False)

        def other() -> "tf.Tensor":
            image = decode_other(encoded, self.channels)
            shape = tf.shape(image)
            window, mirror = place(shape[0], shape[1])
            return self._finish(cut(image, window), mirror)

        return tf.cond(is_jpeg(encoded), jpeg, other)

    def draw(self, height: "tf.Tensor", width: "tf.Tensor", seed: Any) -> "tuple[tf.Tensor, tf.Tensor]":
        """Draws a crop.

        Args:
            height: `()` int32.
            width: `()` int32.
            seed: `(2,)` integers.

        Returns:
            `(4,)` int32 top, left, height and width, and `()` bool whether to mirror.
        """
        import tensorflow as tf

        uniform = tf.random.stateless_uniform([1, NUMBERS], seed)
        windows, mirror = self._windows(uniform, tf.stack([height, width]))
        return windows[0], mirror[0]

    def batch(self, images: Any, seed: Any) -> "tf.Tensor":
        """Augments many small images of one size at once, each in its own way.

        The same crops and, but for rounding, the same interpolation as for single images, as two products with
        weight matrices: a small image costs less than starting the ops to treat it alone.

        Args:
            images: `(n, height, width, 1 or 3)` in [0, 255].
            seed: `(2,)` integers, for the whole batch.

        Returns:
            `(n, size, size, channels)` float32 in [0, 255].
        """
        import tensorflow as tf

        images = tf.cast(convert_channels(tf.convert_to_tensor(images), self.channels), tf.float32)
        size = tf.shape(images)[1:3]
        windows, mirror = self._windows(tf.random.stateless_uniform([tf.shape(images)[0], NUMBERS], seed), size)
        shrinks = tf.reduce_min(windows[:, 2:], axis=1) >= 2 * self.size
        down = self._weights(windows[:, 0], windows[:, 2], size[0], shrinks)
        across = self._weights(windows[:, 1], windows[:, 3], size[1], shrinks)
        across = tf.where(mirror[:, None, None], tf.reverse(across, axis=[1]), across)
        result = tf.einsum("nsh,nhwc->nswc", down, images)
        result = tf.einsum("ntw,nswc->nstc", across, result)
        return tf.ensure_shape(result, (images.shape[0], self.size, self.size, self.channels))

    def _weights(self, first: "tf.Tensor", length: "tf.Tensor", side: "tf.Tensor", shrinks: "tf.Tensor") -> "tf.Tensor":
        """Weights `(n, size, side)` of the pixels of one axis in the pixels of the resized crop."""
        import tensorflow as tf

        first, length = (tf.cast(value, tf.float32)[:, None] for value in (first, length))
        scale = length / self.size
        # Centres of the new pixels, in pixels of the image.
        center = first + (tf.range(self.size, dtype=tf.float32) + 0.5) * scale - 0.5
        pixel = tf.range(tf.cast(side, tf.float32))[None]
        inside = (pixel >= first) & (pixel < first + length)
        width = tf.maximum(scale, 1.0)
        if not self.antialias:
            width = tf.where(shrinks[:, None], width, tf.ones_like(width))
            # Without a filter, what lies beyond the edge is the pixel at the edge.
            center = tf.where(shrinks[:, None], center, tf.clip_by_value(center, first, first + length - 1))
        weights = tf.maximum(0.0, 1.0 - tf.abs(pixel[:, None] - center[..., None]) / width[..., None])
        weights = tf.where(inside[:, None], weights, 0.0)
        return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)

    def _windows(self, uniform: "tf.Tensor", size: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
        """Crops `(n, 4)` int32 and whether to mirror `(n,)` bool, from `(n, NUMBERS)` random numbers in [0, 1)."""
        import tensorflow as tf

        area, aspect, down, right = tf.unstack(tf.reshape(uniform[:, :-1], (-1, 4, TRIES)), axis=1)
        real = tf.cast(size, tf.float32)
        area = (self.scale[0] + (self.scale[1] - self.scale[0]) * area) * real[0] * real[1]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        aspect = tf.exp(low + (high - low) * aspect)
        crops = tf.cast(tf.round(tf.sqrt(tf.stack([area / aspect, area * aspect], axis=-1))), tf.int32)
        fits = tf.reduce_all((crops > 0) & (crops <= size), axis=-1)
        first = tf.argmax(fits, axis=1, output_type=tf.int32)
        some = tf.reduce_any(fits, axis=1, keepdims=True)
        crop = tf.where(some, tf.gather(crops, first, batch_dims=1), self._largest(size, real))
        room = size - crop
        place = tf.gather(tf.stack([down, right], axis=-1), first, batch_dims=1) * tf.cast(room + 1, tf.float32)
        # The product may round up to room + 1.
        place = tf.where(some, tf.minimum(tf.cast(place, tf.int32), room), room // 2)
        return tf.concat([place, crop], axis=1), uniform[:, -1] < self.flip

    def _largest(self, size: "tf.Tensor", real: "tf.Tensor") -> "tf.Tensor":
        """Height and width of the largest crop whose aspect ratio is permitted."""
        import tensorflow as tf

        height = tf.minimum(real[0], tf.round(real[1] / self.ratio[0]))
        width = tf.minimum(real[1], tf.round(real[0] * self.ratio[1]))
        return tf.clip_by_value(tf.cast(tf.stack([height, width]), tf.int32), 1, size)

    def _finish(self, crop: "tf.Tensor", mirror: "tf.Tensor") -> "tf.Tensor":
        """Resizes a crop of a decoded image."""
        import tensorflow as tf

        crop = convert_channels(crop, self.channels)
        shape = tf.shape(crop)[:2]
        # Enlarging needs no filter, but the filter's op is slow even so.
        shrinks = tf.reduce_any(shape > self.size) if self.antialias else tf.reduce_min(shape) >= 2 * self.size
        return tf.cond(
            shrinks,
            lambda: self._resized(crop, mirror, antialias=True),
            lambda: self._resized(crop, mirror, antialias=False),
        )

    def _resized(self, crop: "tf.Tensor", mirror: "tf.Tensor", antialias: bool) -> "tf.Tensor":
        import tensorflow as tf

        image = tf.image.resize(crop, (self.size, self.size), method="bilinear", antialias=antialias)
        image = tf.cond(mirror, lambda: tf.reverse(image, axis=[1]), lambda: image)
        return tf.ensure_shape(image, (self.size, self.size, self.channels))

    def to_config(self) -> dict[str, Any]:
        """The arguments as a JSON-able dict."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RandomResizedCrop":
        """The inverse of `to_config`."""
        arguments: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items()}
        return cls(**arguments)
