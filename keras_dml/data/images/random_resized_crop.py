"""Training augmentation: a random part of the image, resized, half of the time mirrored."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dml.data.images import pillow
from keras_dml.data.images.decoding import box_window, cut, decode_jpeg, decode_other, is_jpeg
from keras_dml.data.images.orientation import (
    TRANSPOSED,
    orientation,
    orientation_of,
    stored_window,
    stored_window_numpy,
    turned,
    turned_numpy,
    upright_size,
)
from keras_dml.data.images.philox import stateless_uniform
from keras_dml.data.images.preprocessing import check_input, convert_channels
from keras_dml.data.images.resampling import resize
from keras_dml.typing import Tensor
from keras_dml.utils.requirements import uses_tensorflow

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
    permitted aspect ratio. What is drawn depends on `seed` alone, and is the same on every backend.

    Resizing is bilinear, with an antialiasing filter where the crop is shrunk: what Pillow, and so torchvision, does.
    Much larger JPEGs (by 4, 8 or 16) are decoded at 1/2, 1/4 or 1/8 of their size first. Without `antialias`, shrinking
    by less than 2 is plain bilinear, which takes half the processor time on photographs of 500 x 375 at size 224 and
    lets a little aliasing through.

    Args:
        size: Side of the result in pixels.
        channels: 1 for gray images, 3 for RGB.
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

    def __call__(self, image: Tensor, seed: Tensor) -> Tensor:
        """Augments a decoded image.

        Args:
            image: `(height, width, 1 or 3)` in [0, 255], any numeric dtype.
            seed: `(2,)` integers.

        Returns:
            `(size, size, channels)` float32 in [0, 255]: a TensorFlow tensor under that backend, else a NumPy array.
        """
        if not uses_tensorflow(image, seed):
            return self.numpy(np.asarray(image), np.asarray(seed))
        import tensorflow as tf

        image = tf.convert_to_tensor(image)
        shape = tf.shape(image)
        window, mirror = self.draw(shape[0], shape[1], seed)
        return self._finish(cut(image, window), mirror)

    def numpy(self, image: np.ndarray, seed: np.ndarray) -> np.ndarray:
        """The same in NumPy, whatever the backend: arrays go in and come out."""
        window, mirror = self.draw_numpy(image.shape[0], image.shape[1], seed)
        return self._finish_numpy(pillow.cut(image, window), mirror)

    def decode_numpy(
        self, encoded: bytes, seed: np.ndarray, box: np.ndarray | None = None, relative: bool = False
    ) -> np.ndarray:
        """`decode` with Pillow and NumPy.

        Raises:
            DataError: The image cannot be read; the text is the reason alone.
        """
        image = pillow.opened(encoded)
        region = np.array([0, 0, image.height, image.width])
        if box is not None:
            region = pillow.box_window(box, relative, image.height, image.width)
        turn = orientation_of(encoded)
        height, width = (int(side) for side in (region[2:] if turn < TRANSPOSED else region[:1:-1]))
        window, mirror = self.draw_numpy(height, width, seed)
        window = stored_window_numpy(window, (height, width), turn) + np.array([region[0], region[1], 0, 0])
        if image.format != "JPEG":
            pixels = turned_numpy(pillow.cut(pillow.pixels_of(image, self.channels), window), turn)
            return self._finish_decoded(pixels, mirror)
        shrink = int(window[2:].min()) // self.size
        rest = 2 if self.antialias else 1
        ratio = next((ratio for ratio in JPEG_RATIOS if shrink >= rest * ratio), 1)
        pixels = turned_numpy(pillow.cut(pillow.pixels_of(image, self.channels, ratio), window // ratio), turn)
        return self._finish_decoded(pixels, mirror) if self.antialias else self._resized_numpy(pixels, mirror, False)

    def decode(
        self,
        encoded: "tf.Tensor",
        seed: Tensor,
        box: "tf.Tensor | None" = None,
        relative: bool = False,
    ) -> "tf.Tensor":
        """Decodes and augments, without decoding more of a JPEG than is needed; see `decoding.decode`.

        Args:
            encoded: `()` string.
            seed: `(2,)` integers.
            box: `(4,)` `ymin, xmin, ymax, xmax`: the part of the image that is augmented.
            relative: Whether `box` is in fractions of height and width instead of pixels.

        Returns:
            `(size, size, channels)` float32 in [0, 255].
        """
        import tensorflow as tf

        def place(height: "tf.Tensor", width: "tf.Tensor", turn: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
            region = None if box is None else box_window(box, relative, height, width)
            size = tf.stack([height, width]) if region is None else region[2:]
            shown = upright_size(size, turn)
            window, mirror = self.draw(shown[0], shown[1], seed)
            window = stored_window(window, shown, turn)
            if region is not None:
                window += tf.concat([region[:2], tf.zeros(2, tf.int32)], axis=0)
            return window, mirror

        def jpeg() -> "tf.Tensor":
            shape = tf.io.extract_jpeg_shape(encoded)
            turn = orientation(encoded)
            window, mirror = place(shape[0], shape[1], turn)
            shrink = tf.reduce_min(window[2:]) // self.size

            def at(ratio: int) -> "tf.Tensor":
                return decode_jpeg(encoded, self.channels, shape[2], window // ratio, ratio)

            # The decoder averages; where a filter follows, at least a factor of 2 is left to it.
            rest = 2 if self.antialias else 1
            image = tf.case(
                [(shrink >= rest * ratio, lambda ratio=ratio: at(ratio)) for ratio in JPEG_RATIOS],
                default=lambda: at(1),
            )
            image = turned(tf.ensure_shape(image, (None, None, self.channels)), turn)
            return self._finish(image, mirror) if self.antialias else self._resized(image, mirror, antialias=False)

        def other() -> "tf.Tensor":
            image = decode_other(encoded, self.channels)
            shape = tf.shape(image)
            turn = orientation(encoded)
            window, mirror = place(shape[0], shape[1], turn)
            return self._finish(turned(cut(image, window), turn), mirror)

        return tf.cond(is_jpeg(encoded), jpeg, other)

    def draw(self, height: "tf.Tensor", width: "tf.Tensor", seed: Tensor) -> "tuple[tf.Tensor, tf.Tensor]":
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

    def draw_numpy(self, height: int, width: int, seed: np.ndarray) -> tuple[np.ndarray, bool]:
        """`draw` in NumPy."""
        windows, mirror = self._windows_numpy(stateless_uniform(NUMBERS, seed)[None], (height, width))
        return windows[0], bool(mirror[0])

    def batch(self, images: Tensor, seed: Tensor, first: int = 0, total: int | None = None) -> "tf.Tensor":
        """Augments many small images of one size at once, each in its own way.

        The same crops and, but for rounding, the same interpolation as for single images, as two products with
        weight matrices: a small image costs less than starting the ops to treat it alone.

        Args:
            images: `(n, height, width, 1 or 3)` in [0, 255].
            seed: `(2,)` integers, for the whole batch.
            first: Place of the first of `images` in the whole batch, where they are a part of it.
            total: Images of the whole batch; these are all by default.

        Returns:
            `(n, size, size, channels)` float32 in [0, 255].
        """
        import tensorflow as tf

        images = tf.cast(convert_channels(tf.convert_to_tensor(images), self.channels), tf.float32)
        count, size = tf.shape(images)[0], tf.shape(images)[1:3]
        uniform = tf.random.stateless_uniform([count if total is None else total, NUMBERS], seed)
        if total is not None:
            uniform = uniform[first : first + count]
        windows, mirror = self._windows(uniform, size)
        shrinks = tf.reduce_min(windows[:, 2:], axis=1) >= 2 * self.size
        down = self._weights(windows[:, 0], windows[:, 2], size[0], shrinks)
        across = self._weights(windows[:, 1], windows[:, 3], size[1], shrinks)
        across = tf.where(mirror[:, None, None], tf.reverse(across, axis=[1]), across)
        result = tf.einsum("nsh,nhwc->nswc", down, images)
        result = tf.einsum("ntw,nswc->nstc", across, result)
        return tf.ensure_shape(result, (images.shape[0], self.size, self.size, self.channels))

    def batch_numpy(self, images: np.ndarray, seed: np.ndarray, first: int = 0, total: int | None = None) -> np.ndarray:
        """`batch` in NumPy."""
        images = pillow.convert_channels(images, self.channels).astype(np.float32, copy=False)
        count, *size = images.shape[:3]
        uniform = stateless_uniform((count if total is None else total) * NUMBERS, seed).reshape(-1, NUMBERS)
        windows, mirror = self._windows_numpy(uniform[first : first + count], (size[0], size[1]))
        shrinks = windows[:, 2:].min(axis=1) >= 2 * self.size
        down = self._weights_numpy(windows[:, 0], windows[:, 2], size[0], shrinks)
        across = self._weights_numpy(windows[:, 1], windows[:, 3], size[1], shrinks)
        across = np.where(mirror[:, None, None], across[:, ::-1], across)
        # A product for each image: BLAS then rounds an image alike, whatever the batch around it.
        result = np.matmul(down, images.reshape(count, size[0], -1)).reshape(count, self.size, size[1], -1)
        return np.matmul(across[:, None], result)

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

    def _weights_numpy(self, first: np.ndarray, length: np.ndarray, side: int, shrinks: np.ndarray) -> np.ndarray:
        """`_weights` in NumPy."""
        first, length = (value.astype(np.float32)[:, None] for value in (first, length))
        scale = length / np.float32(self.size)
        center = first + (np.arange(self.size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
        pixel: np.ndarray = np.arange(side, dtype=np.float32)[None]
        inside = (pixel >= first) & (pixel < first + length)
        width = np.maximum(scale, np.float32(1))
        if not self.antialias:
            width = np.where(shrinks[:, None], width, np.float32(1))
            center = np.where(shrinks[:, None], center, np.clip(center, first, first + length - 1))
        weights = np.maximum(np.float32(0), 1 - np.abs(pixel[:, None] - center[..., None]) / width[..., None])
        weights = np.where(inside[:, None], weights, np.float32(0))
        return weights / weights.sum(axis=-1, keepdims=True)

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

    def _windows_numpy(self, uniform: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """`_windows` in NumPy, with the same roundings to float32."""
        area, aspect, down, right = np.moveaxis(uniform[:, :-1].reshape(-1, 4, TRIES), 1, 0)
        real = np.array(size, np.float32)
        low_area, high_area = np.float32(self.scale[0]), np.float32(self.scale[1] - self.scale[0])
        area = (low_area + high_area * area) * real[0] * real[1]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        aspect = np.exp(np.float32(low) + np.float32(high - low) * aspect)
        crops = np.rint(np.sqrt(np.stack([area / aspect, area * aspect], axis=-1))).astype(np.int64)
        fits = ((crops > 0) & (crops <= np.array(size))).all(axis=-1)
        first = fits.argmax(axis=1)
        lines = np.arange(len(first))
        some = fits.any(axis=1)[:, None]
        height = min(real[0], np.rint(real[1] / np.float32(self.ratio[0])))
        width = min(real[1], np.rint(real[0] * np.float32(self.ratio[1])))
        largest = np.clip(np.array([height, width]).astype(np.int64), 1, size)
        crop = np.where(some, crops[lines, first], largest)
        room = np.array(size) - crop
        place = np.stack([down, right], axis=-1)[lines, first] * (room + 1).astype(np.float32)
        place = np.where(some, np.minimum(place.astype(np.int64), room), room // 2)
        return np.concatenate([place, crop], axis=1), uniform[:, -1] < np.float32(self.flip)

    def _finish_numpy(self, crop: np.ndarray, mirror: bool) -> np.ndarray:
        """`_finish` in NumPy."""
        crop = pillow.convert_channels(crop, self.channels)
        sides = crop.shape[:2]
        shrinks = max(sides) > self.size if self.antialias else min(sides) >= 2 * self.size
        return self._resized_numpy(crop, mirror, shrinks)

    def _finish_decoded(self, crop: np.ndarray, mirror: bool) -> np.ndarray:
        """`_finish_numpy` of a decoded image by Pillow, which is twice as fast and rounds to whole values."""
        if not self.antialias:
            return self._finish_numpy(crop, mirror)
        image: np.ndarray = pillow.resize(crop, self.size).astype(np.float32)
        return image[:, ::-1] if mirror else image

    def _resized_numpy(self, crop: np.ndarray, mirror: bool, antialias: bool) -> np.ndarray:
        image = resize(crop[None], (self.size, self.size), antialias)[0]
        return image[:, ::-1] if mirror else image

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
