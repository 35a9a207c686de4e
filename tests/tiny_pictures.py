"""Small pictures of every kind, for tests."""

import io
import pathlib

import numpy as np
from PIL import Image


def photograph(seed, width=40, height=30):
    """A smooth colorful picture, as a Pillow image."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)


def encoded(image, kind="JPEG", **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(seed, width=40, height=30):
    """The bytes of a JPEG photograph."""
    return encoded(photograph(seed, width, height), quality=92)


def save(path, seed, **size):
    """Writes a photograph, in the format that the name asks for."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    photograph(seed, **size).save(path)
    return path
