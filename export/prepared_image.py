"""An encoded image of a stranger's, made ready for the decoder: nothing in it but what pixels need."""

import struct
import zlib

from export.image_header import PNG_SIGNATURE, image_size
from keras_dml.data.images.orientation import orientation_of

# Chunks that a decoder needs; texts and color profiles are unpacked by libpng too, whatever their size.
PNG_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
MAX_PNG_CHUNKS = 200_000
MODERN_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC"}


def prepare_image(content: bytes) -> tuple[bytes, int, int, int]:
    """An image without what could keep a decoder busy, and its size.

    Args:
        content: JPEG, PNG, GIF, BMP or WebP.

    Returns:
        The image, and `(height, width, pixels)` as `image_size` gives them.

    Raises:
        ValueError: No such image.
    """
    brand = MODERN_BRANDS.get(content[8:12]) if content[4:8] == b"ftyp" else None
    if brand is not None:
        raise ValueError(f"{brand} images are not read here. Save it as a JPEG, or let the camera store JPEGs")
    height, width, pixels = image_size(content)
    if content.startswith(PNG_SIGNATURE):
        content = _png(content)
    return content, height, width, pixels


def _png(content: bytes) -> bytes:
    """The chunks in `PNG_CHUNKS`, and the orientation of one that is not upright."""
    pieces = [PNG_SIGNATURE]
    position = len(PNG_SIGNATURE)
    turn = orientation_of(content)
    for _ in range(MAX_PNG_CHUNKS):
        head = content[position : position + 8]
        if len(head) < 8:
            return b"".join(pieces)
        length, kind = struct.unpack(">I4s", head)
        if kind in PNG_CHUNKS:
            pieces.append(content[position : position + 12 + length])
        if kind == b"IHDR" and turn != 1:
            pieces.append(_orientation_chunk(turn))
        position += 12 + length
        if kind == b"IEND":
            return b"".join(pieces)
    raise ValueError(f"the PNG has more than {MAX_PNG_CHUNKS} chunks")


def _orientation_chunk(turn: int) -> bytes:
    data = b"eXIf" + b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, turn, 0, 0)
    return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
