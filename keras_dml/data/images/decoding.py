"""Encoded images to tensors, in TensorFlow ops."""

from typing import TYPE_CHECKING, Final

from keras_dml.data.images.orientation import PNG_SIGNATURE, orientation, turned

if TYPE_CHECKING:
    import tensorflow as tf

MOST_PIXELS: Final = 2**24
"""A larger JPEG is decoded at the half, fourth or eighth of its sides that has no more, which costs less memory."""


def decode(
    encoded: "tf.Tensor",
    channels: int = 3,
    box: "tf.Tensor | None" = None,
    relative: bool = False,
) -> "tf.Tensor":
    """Decodes a JPEG, PNG, GIF (first frame), BMP or WebP of any color model.

    Gray images are repeated for three channels, CMYK is converted, and transparent parts of a PNG become white, as
    on paper (the color stored beneath them is often black). Images are turned as their EXIF orientation says, after
    the box has been cut out: boxes are in pixels as stored, as the published ones are. Whole JPEGs of more than
    `MOST_PIXELS` are decoded at a fraction of their size.

    Args:
        encoded: `()` string.
        channels: 1 for gray (luma), 3 for RGB.
        box: `(4,)` `ymin, xmin, ymax, xmax`; the rest of the image is cut away.
        relative: Whether `box` is in fractions of height and width instead of pixels.

    Returns:
        `(height, width, channels)` uint8.
    """
    import tensorflow as tf

    def jpeg() -> "tf.Tensor":
        shape = tf.io.extract_jpeg_shape(encoded)
        if box is not None:
            return decode_jpeg(encoded, channels, shape[2], box_window(box, relative, shape[0], shape[1]))
        pixels = tf.reduce_prod(tf.cast(shape[:2], tf.int64))
        return tf.case(
            [
                (pixels > ratio // 2 * (ratio // 2) * MOST_PIXELS, lambda ratio=ratio: whole(shape, ratio))
                for ratio in (8, 4, 2)
            ],
            default=lambda: whole(shape, 1),
        )

    def whole(shape: "tf.Tensor", ratio: int) -> "tf.Tensor":
        image = decode_jpeg(encoded, channels, shape[2], ratio=ratio)
        return tf.ensure_shape(image, (None, None, channels))

    def other() -> "tf.Tensor":
        image = decode_other(encoded, channels)
        if box is None:
            return image
        shape = tf.shape(image)
        return cut(image, box_window(box, relative, shape[0], shape[1]))

    image = tf.ensure_shape(tf.cond(is_jpeg(encoded), jpeg, other), (None, None, channels))
    return turned(image, orientation(encoded))


def decode_jpeg(
    encoded: "tf.Tensor", channels: int, components: "tf.Tensor", window: "tf.Tensor | None" = None, ratio: int = 1
) -> "tf.Tensor":
    """Decodes a JPEG as it is stored, `(height, width, channels)` uint8.

    Args:
        encoded: `()` string.
        channels: 1 or 3.
        components: Number of color components that the file has.
        window: `(4,)` top, left, height and width of the part that is wanted, in pixels of the result.
        ratio: 1, 2, 4 or 8: decodes at that fraction of the size.
    """
    import tensorflow as tf

    def at(wanted: int) -> "tf.Tensor":
        if window is None:
            return tf.io.decode_jpeg(encoded, channels=wanted, ratio=ratio)
        return tf.io.decode_and_crop_jpeg(encoded, window, channels=wanted, ratio=ratio)

    def cmyk_to_gray() -> "tf.Tensor":
        return tf.cast(tf.round(luma(tf.cast(at(3), tf.float32))), tf.uint8)

    if channels == 3:
        return at(3)
    # The decoder refuses gray from four components.
    return tf.ensure_shape(tf.cond(components == 4, cmyk_to_gray, lambda: at(1)), (None, None, 1))


def is_jpeg(encoded: "tf.Tensor") -> "tf.Tensor":
    """Whether the bytes begin like a JPEG."""
    import tensorflow as tf

    return tf.equal(tf.strings.substr(encoded, 0, 2), b"\xff\xd8")


def decode_other(encoded: "tf.Tensor", channels: int) -> "tf.Tensor":
    """Decodes what is not a JPEG, `(height, width, channels)` uint8."""
    import tensorflow as tf

    def png() -> "tf.Tensor":
        # Byte 25 of a PNG is its color type: 3 palette, 4 gray with alpha, 6 RGB with alpha.
        color = tf.io.decode_raw(tf.strings.substr(encoded, 25, 1), tf.uint8)[0]
        return tf.cond(
            tf.reduce_any(tf.equal(color, tf.constant([3, 4, 6], tf.uint8))),
            on_white,
            lambda: tf.io.decode_png(encoded, channels=channels),
        )

    def on_white() -> "tf.Tensor":
        image = tf.cast(tf.io.decode_png(encoded, channels=4), tf.float32)
        alpha = image[..., 3:] / 255.0
        image = image[..., :3] * alpha + 255.0 * (1.0 - alpha)
        if channels == 1:
            image = luma(image)
        return tf.cast(tf.round(image), tf.uint8)

    def rest() -> "tf.Tensor":
        image = tf.ensure_shape(tf.io.decode_image(encoded, channels=3, expand_animations=False), (None, None, 3))
        if channels == 1:
            image = tf.cast(tf.round(luma(tf.cast(image, tf.float32))), tf.uint8)
        return image

    # Shorter ones hold no image, and byte 25 would not be there.
    is_png = tf.equal(tf.strings.substr(encoded, 0, 8), PNG_SIGNATURE) & (tf.strings.length(encoded) > 25)
    return tf.ensure_shape(tf.cond(is_png, png, rest), (None, None, channels))


def luma(image: "tf.Tensor") -> "tf.Tensor":
    """Gray values `(..., 1)` of a float RGB image, ITU-R 601; equal channels keep their value."""
    import tensorflow as tf

    # TensorFlow's rgb_to_grayscale has weights that sum to 0.9999.
    return tf.reduce_sum(image * tf.constant([0.299, 0.587, 0.114]), axis=-1, keepdims=True)


def box_window(box: "tf.Tensor", relative: bool, height: "tf.Tensor", width: "tf.Tensor") -> "tf.Tensor":
    """The pixels of a box, `(4,)` int32 top, left, height and width; at least one pixel, inside the image."""
    import tensorflow as tf

    size = tf.stack([height, width])
    corners = tf.reshape(box, (2, 2))
    if relative:
        corners = corners * tf.cast(size, tf.float32)
    corners = tf.cast(tf.round(corners), tf.int32)
    first = tf.clip_by_value(corners[0], 0, size - 1)
    last = tf.clip_by_value(corners[1], first + 1, size)
    return tf.concat([first, last - first], axis=0)


def cut(image: "tf.Tensor", window: "tf.Tensor") -> "tf.Tensor":
    """The part of an image `(height, width, channels)` in a window `(4,)`: top, left, height, width."""
    return image[window[0] : window[0] + window[2], window[1] : window[1] + window[3]]
