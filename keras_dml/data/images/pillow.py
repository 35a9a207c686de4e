"""Encoded images to arrays with Pillow: what `decoding` does in TensorFlow ops, for every other backend.

PNG, GIF, BMP and lossless WebP give the same values (the gray of a color PNG within 1 of 255). Of a JPEG the decoders'
inverse transforms differ by about 1 of 255 in the mean, 5 at most on smooth pictures. A JPEG with damaged pixels in the
midst of good ones may pass here, where TensorFlow's decoder refuses it; a cut one is refused by both.
"""

import io
import pathlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dml.data.errors import DataError
from keras_dml.data.images.decoding import MOST_PIXELS
from keras_dml.data.images.orientation import orientation_of, turned_numpy

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
_LUMA = (np.float32(0.299), np.float32(0.587), np.float32(0.114))


def decode(encoded: bytes, channels: int = 3, box: np.ndarray | None = None, relative: bool = False) -> np.ndarray:
    """Decodes a JPEG, PNG, GIF (first frame), BMP or WebP of any color model; see `decoding.decode`.

    Args:
        encoded: The file's bytes.
        channels: 1 for gray (luma), 3 for RGB.
        box: `(4,)` `ymin, xmin, ymax, xmax`; the rest of the image is cut away.
        relative: Whether `box` is in fractions of height and width instead of pixels.

    Returns:
        `(height, width, channels)` uint8.

    Raises:
        DataError: The bytes are no such image, or damaged; the text is the reason alone.
    """
    image = opened(encoded)
    window = None if box is None else box_window(box, relative, image.height, image.width)
    pixels = pixels_of(image, channels, 1 if window is not None else _whole_ratio(image))
    return turned_numpy(pixels if window is None else cut(pixels, window), orientation_of(encoded))


def _whole_ratio(image: "Image.Image") -> int:
    """What a whole image is decoded at; see `decoding.MOST_PIXELS`."""
    if image.format != "JPEG":
        return 1
    pixels = image.height * image.width
    return next((ratio for ratio in (8, 4, 2) if pixels > (ratio // 2) ** 2 * MOST_PIXELS), 1)


def opened(encoded: bytes) -> "Image.Image":
    """An image of which the header alone is read; its size is as it is stored, not as it is shown.

    Raises:
        DataError: There is no such header.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Large photographs are what users have; TensorFlow's decoders have no such limit either.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DataError("Unknown image file format. One of JPEG, PNG, GIF, BMP, WebP required") from error
    except Exception as error:
        raise DataError(_reason(error)) from error


def size_of_file(path: pathlib.Path) -> tuple[int, int]:
    """Height and width of an image file, from its header alone.

    Raises:
        DataError: It has none.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                return image.height, image.width
    # Pillow's readers of headers raise anything.
    except Exception as error:
        raise DataError(_reason(error)) from error


def pixels_of(image: "Image.Image", channels: int, ratio: int = 1) -> np.ndarray:
    """Decodes an opened image, `(height, width, channels)` uint8.

    Args:
        image: What `opened` returned.
        channels: 1 or 3.
        ratio: 1, 2, 4 or 8: decodes a JPEG at that fraction of its size.

    Raises:
        DataError: The image is damaged.
    """
    try:
        return _pixels(image, channels, ratio)
    # Pillow's decoders raise anything: OSError, SyntaxError, struct.error, zlib.error.
    except Exception as error:
        raise DataError(_reason(error)) from error


def _pixels(image: "Image.Image", channels: int, ratio: int) -> np.ndarray:
    if image.format == "JPEG":
        size: Any = None if ratio == 1 else (image.width // ratio, image.height // ratio)
        # Gray is the luma that the file holds, without the way over RGB.
        image.draft("L" if channels == 1 and image.mode == "RGB" else None, size)
    if image.mode.startswith("I") and image.format == "PNG":
        # Sixteen bits: the upper eight are kept.
        gray = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)[..., None]
        return np.repeat(gray, channels, axis=-1)
    if image.format == "PNG" and (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
        rgba = np.asarray(image.convert("RGBA"), np.float32)
        alpha = rgba[..., 3:] / np.float32(255)
        color = rgba[..., :3] * alpha + np.float32(255) * (np.float32(1) - alpha)
        return np.rint(luma(color) if channels == 1 else color).astype(np.uint8)
    if image.mode in ("1", "L"):
        return np.repeat(np.asarray(image.convert("L"))[..., None], channels, axis=-1)
    rgb = np.asarray(image.convert("RGB"))
    return np.rint(luma(rgb.astype(np.float32))).astype(np.uint8) if channels == 1 else rgb


def luma(image: np.ndarray) -> np.ndarray:
    """Gray values `(..., 1)` of a float32 RGB image, ITU-R 601."""
    red, green, blue = (image[..., channel, None] * weight for channel, weight in enumerate(_LUMA))
    return red + green + blue


def convert_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Converts an image `(..., height, width, 1 or 3)` to `channels` channels; see `preprocessing.convert_channels`."""
    present = image.shape[-1]
    if present == channels:
        return image
    if present == 1 and channels == 3:
        return np.repeat(image, 3, axis=-1)
    if present == 3 and channels == 1:
        return luma(image.astype(np.float32))
    raise ValueError(f"An image must have 1 or 3 channels. Received: {present} channels")


def box_window(box: np.ndarray, relative: bool, height: int, width: int) -> np.ndarray:
    """The pixels of a box, `(4,)` top, left, height and width; at least one pixel, inside the image."""
    size = np.array([height, width])
    corners = np.asarray(box, np.float32).reshape(2, 2)
    if relative:
        corners = corners * size.astype(np.float32)
    rounded = np.rint(corners).astype(np.int64)
    first = np.clip(rounded[0], 0, size - 1)
    last = np.clip(rounded[1], first + 1, size)
    return np.concatenate([first, last - first])


def cut(image: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The part of an image `(height, width, channels)` in a window `(4,)`: top, left, height, width."""
    top, left, height, width = (int(value) for value in window)
    return image[top : top + height, left : left + width]


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """An image `(height, width, 1 or 3)` uint8 at `size` x `size`: bilinear, filtered where it shrinks."""
    from PIL import Image

    gray = image.shape[-1] == 1
    resized = Image.fromarray(image[..., 0] if gray else image).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(size, size, -1)


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__).rstrip(".")
