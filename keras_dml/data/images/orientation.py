"""Which way up an image is shown: the orientation that its EXIF data note, in TensorFlow ops and without.

Both read by one rule, so that they agree on every file. Of a JPEG: the first `Exif` segment that begins in the first 64
KiB, where cameras write it. Of a PNG: the first `eXIf` chunk that begins there. Of a WebP: the first `EXIF` chunk after
a header that announces one. Of the data found, the first directory counts.
"""

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

SEARCHED: Final = 65_536
SIGNATURE: Final = b"Exif\0\0"
PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
PNG_CHUNK: Final = b"eXIf"
WEBP_SIGNATURE: Final = b"WEBPVP8X"
WEBP_CHUNK: Final = b"EXIF"
WEBP_FLAGS: Final = 20
"""Where the flags stand in a WebP that announces what it holds beside its pixels."""
WEBP_EXIF: Final = 8
WEBP_STAND_IN: Final = b"\0" * (WEBP_FLAGS + 1)
_TAG, _SHORT, _ENTRY = 0x0112, 3, 12
TRANSPOSED: Final = 5
"""Orientations from this one on exchange height and width."""
FLIPPED_ACROSS: Final = (2, 3, 6, 7)
FLIPPED_DOWN: Final = (3, 4, 7, 8)


def orientation_of(encoded: bytes) -> int:
    """The orientation of an image, 1 to 8 as EXIF counts them; 1, as stored, where nothing valid is noted."""
    if encoded[:2] == b"\xff\xd8":
        head, found, tiff = encoded[:SEARCHED].partition(SIGNATURE)
        # The segment's marker and length stand before.
        valid = bool(found) and head[-4:-2] == b"\xff\xe1"
    elif encoded[:8] == PNG_SIGNATURE:
        _, found, tiff = encoded[:SEARCHED].partition(PNG_CHUNK)
        valid = bool(found)
    elif encoded[8:16] == WEBP_SIGNATURE and len(encoded) > WEBP_FLAGS and encoded[WEBP_FLAGS] & WEBP_EXIF:
        _, found, rest = encoded.partition(WEBP_CHUNK)
        # After its length; some writers put the signature of a JPEG's segment before it.
        tiff = rest[4:]
        tiff = tiff.removeprefix(SIGNATURE)
        valid = bool(found)
    else:
        return 1
    if not valid or len(tiff) < 8 or tiff[:2] not in (b"II", b"MM"):
        return 1
    order = "little" if tiff[:2] == b"II" else "big"
    start = int.from_bytes(tiff[4:8], order)  # type: ignore[arg-type]
    count = int.from_bytes(tiff[start : start + 2], order)  # type: ignore[arg-type]
    for place in range(start + 2, min(start + 2 + _ENTRY * count, len(tiff) - _ENTRY + 1), _ENTRY):
        tag, kind = (int.from_bytes(tiff[place + at : place + at + 2], order) for at in (0, 2))  # type: ignore[arg-type]
        if tag == _TAG:
            value = int.from_bytes(tiff[place + 8 : place + 10], order)  # type: ignore[arg-type]
            return value if kind == _SHORT and 1 <= value <= 8 else 1
    return 1


def orientation(encoded: "tf.Tensor") -> "tf.Tensor":
    """`orientation_of` the bytes of an image, `()` string, as `()` int32."""
    import tensorflow as tf

    one = tf.constant(1, tf.int32)
    none = tf.constant(b"")

    # One pass of a plain search, a fraction of what decoding costs; walking the segments in ops would cost more.
    def after(content: "tf.Tensor", mark: bytes) -> "tf.Tensor":
        """What stands before and after the first `mark`, `(2,)`, or `(1,)` where there is none."""
        return tf.raw_ops.StringSplitV2(input=[content], sep=mark, maxsplit=1).values

    def jpeg() -> "tf.Tensor":
        parts = after(tf.strings.substr(encoded, 0, SEARCHED), SIGNATURE)

        def data() -> "tf.Tensor":
            marker = tf.strings.substr(parts[0], tf.maximum(tf.strings.length(parts[0]) - 4, 0), 2)
            return tf.where(tf.equal(marker, b"\xff\xe1"), parts[1], none)

        return tf.cond(tf.size(parts) == 2, data, lambda: none)

    def png() -> "tf.Tensor":
        parts = after(tf.strings.substr(encoded, 0, SEARCHED), PNG_CHUNK)
        return tf.cond(tf.size(parts) == 2, lambda: parts[1], lambda: none)

    def webp() -> "tf.Tensor":
        parts = after(encoded, WEBP_CHUNK)

        def data() -> "tf.Tensor":
            rest = tf.strings.substr(parts[1], tf.minimum(4, tf.strings.length(parts[1])), -1)
            prefixed = tf.equal(tf.strings.substr(rest, 0, len(SIGNATURE)), SIGNATURE)
            return tf.where(prefixed, tf.strings.substr(rest, tf.where(prefixed, len(SIGNATURE), 0), -1), rest)

        return tf.cond(tf.size(parts) == 2, data, lambda: none)

    def rest() -> "tf.Tensor":
        long = tf.strings.length(encoded) > WEBP_FLAGS
        is_webp = long & tf.equal(tf.strings.substr(tf.where(long, encoded, WEBP_STAND_IN), 8, 8), WEBP_SIGNATURE)

        def flags() -> "tf.Tensor":
            return tf.io.decode_raw(tf.strings.substr(encoded, WEBP_FLAGS, 1), tf.uint8)[0]

        announced = tf.cond(is_webp, lambda: tf.bitwise.bitwise_and(flags(), WEBP_EXIF) > 0, lambda: False)
        return tf.cond(announced, webp, lambda: none)

    tiff = tf.case(
        [
            (tf.equal(tf.strings.substr(encoded, 0, 2), b"\xff\xd8"), jpeg),
            (tf.equal(tf.strings.substr(encoded, 0, 8), PNG_SIGNATURE), png),
        ],
        default=rest,
    )
    length = tf.strings.length(tiff)
    order = tf.strings.substr(tiff, 0, 2)
    known = (tf.equal(order, b"II") | tf.equal(order, b"MM")) & (length >= 8)
    return tf.cond(known, lambda: _directory(tiff, length, tf.equal(order, b"II")), lambda: one)


def _directory(tiff: "tf.Tensor", length: "tf.Tensor", little: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf

    def number(raw: "tf.Tensor") -> "tf.Tensor":
        """Whole numbers of the bytes `(..., 2 or 4)`."""
        raw = tf.cast(tf.cond(little, lambda: tf.reverse(raw, [-1]), lambda: raw), tf.int64)
        weights: np.ndarray = 256 ** np.arange(raw.shape[-1])[::-1]
        return tf.reduce_sum(raw * weights, axis=-1)

    def raw(position: "tf.Tensor", size: int) -> "tf.Tensor":
        return tf.ensure_shape(tf.io.decode_raw(tf.strings.substr(tiff, position, size), tf.uint8), (size,))

    one = tf.constant(1, tf.int32)
    length = tf.cast(length, tf.int64)
    start = number(raw(tf.constant(4, tf.int64), 4))

    def entries() -> "tf.Tensor":
        count = tf.minimum(number(raw(start, 2)), (length - start - 2) // _ENTRY)
        content = tf.strings.substr(tiff, start + 2, count * _ENTRY)
        table = tf.reshape(tf.io.decode_raw(content, tf.uint8), (-1, _ENTRY))
        wanted = tf.boolean_mask(table, tf.equal(number(table[:, :2]), _TAG))
        # A row that says nothing, for directories without the tag.
        wanted = tf.concat([wanted, tf.zeros((1, _ENTRY), tf.uint8)], axis=0)[0]
        value = tf.cast(number(wanted[8:10]), tf.int32)
        valid = tf.equal(number(wanted[2:4]), _SHORT) & (value >= 1) & (value <= 8)
        return tf.where(valid, value, one)

    return tf.cond(start + 2 <= length, entries, lambda: one)


def turned(image: "tf.Tensor", orientation: "tf.Tensor") -> "tf.Tensor":
    """An image `(height, width, channels)` as it is to be shown."""
    import tensorflow as tf

    def turn() -> "tf.Tensor":
        upright = tf.cond(orientation >= TRANSPOSED, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
        upright = tf.cond(_among(orientation, FLIPPED_ACROSS), lambda: tf.reverse(upright, [1]), lambda: upright)
        return tf.cond(_among(orientation, FLIPPED_DOWN), lambda: tf.reverse(upright, [0]), lambda: upright)

    return tf.ensure_shape(tf.cond(orientation > 1, turn, lambda: image), (None, None, image.shape[-1]))


def turned_numpy(image: np.ndarray, orientation: int) -> np.ndarray:
    """`turned` in NumPy."""
    upright = image.transpose(1, 0, 2) if orientation >= TRANSPOSED else image
    upright = upright[:, ::-1] if orientation in FLIPPED_ACROSS else upright
    return upright[::-1] if orientation in FLIPPED_DOWN else upright


def upright_size(size: "tf.Tensor", orientation: "tf.Tensor") -> "tf.Tensor":
    """Height and width `(2,)` of an image of stored `size` as it is shown."""
    import tensorflow as tf

    return tf.cond(orientation >= TRANSPOSED, lambda: tf.reverse(size, [0]), lambda: size)


def stored_window(window: "tf.Tensor", size: "tf.Tensor", orientation: "tf.Tensor") -> "tf.Tensor":
    """Where a window `(4,)` of the image as it is shown lies in the image as it is stored.

    Args:
        window: Top, left, height and width.
        size: `(2,)` height and width as shown.
        orientation: `()` int32.
    """
    import tensorflow as tf

    def turn() -> "tf.Tensor":
        flipped = tf.stack([_among(orientation, FLIPPED_DOWN), _among(orientation, FLIPPED_ACROSS)])
        corner = tf.where(flipped, size - window[:2] - window[2:], window[:2])
        back = tf.concat([corner, window[2:]], axis=0)
        return tf.cond(orientation >= TRANSPOSED, lambda: tf.gather(back, (1, 0, 3, 2)), lambda: back)

    return tf.cond(orientation > 1, turn, lambda: window)


def stored_window_numpy(window: np.ndarray, size: tuple[int, int], orientation: int) -> np.ndarray:
    """`stored_window` in NumPy."""
    top, left, height, width = (int(side) for side in window)
    if orientation in FLIPPED_DOWN:
        top = size[0] - top - height
    if orientation in FLIPPED_ACROSS:
        left = size[1] - left - width
    return np.array([left, top, width, height] if orientation >= TRANSPOSED else [top, left, height, width])


def _among(orientation: "tf.Tensor", values: tuple[int, ...]) -> "tf.Tensor":
    import tensorflow as tf

    return tf.reduce_any(tf.equal(orientation, values))
