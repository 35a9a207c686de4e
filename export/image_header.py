"""Size of an encoded image from its header, without decoding it: the guard against decompression bombs.

Formats are told apart by their first bytes, as TensorFlow's decode_image does.
"""

import re
import struct

from keras_dml.data.images.orientation import PNG_SIGNATURE

# A progressive JPEG may hold any number of scans over all pixels; encoders write about ten.
MAX_JPEG_SCANS = 100
# Walking the headers must be quick for hostile files too.
MAX_SEGMENTS = 10_000
MAX_GIF_BLOCKS = 200_000
_FILL = re.compile(rb"\xff+")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def image_size(content: bytes) -> tuple[int, int, int]:
    """`(height, width, pixels)` of an encoded image; `pixels` counts all frames of a GIF, since all are decoded.

    Raises:
        ValueError: Not a JPEG, PNG, GIF, BMP or WebP image, or a header that ends early.
    """
    try:
        if content.startswith(b"\xff\xd8\xff"):
            height, width = _jpeg(content)
        elif content.startswith(PNG_SIGNATURE):
            height, width = _png(content)
        elif content.startswith((b"GIF87a", b"GIF89a")):
            return _gif(content)
        elif content.startswith(b"BM"):
            height, width = _bmp(content)
        elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            height, width = _webp(content)
        else:
            raise ValueError("not a JPEG, PNG, GIF, BMP or WebP image")
    except (struct.error, IndexError):
        raise ValueError("the image's header ends early") from None
    if height < 1 or width < 1:
        raise ValueError(f"the image's header gives it {height} x {width} pixels")
    return height, width, height * width


def _png(content: bytes) -> tuple[int, int]:
    if content[12:16] != b"IHDR":
        raise ValueError("the PNG does not begin with its header")
    width, height = struct.unpack_from(">II", content, 16)
    return height, width


def _jpeg(content: bytes) -> tuple[int, int]:
    if content.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise ValueError(f"the JPEG has more than {MAX_JPEG_SCANS} scans")
    position = 2
    for _ in range(MAX_SEGMENTS):
        fill = _FILL.search(content, position)
        if fill is None:
            raise IndexError
        position = fill.end()
        marker = content[position]
        position += 1
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", content, position + 3)
            return height, width
        if marker in (0xD9, 0xDA):
            raise ValueError("the JPEG has no frame header before its data")
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue
        (length,) = struct.unpack_from(">H", content, position)
        position += length
    raise ValueError(f"the JPEG has more than {MAX_SEGMENTS} segments before its frame")


def _gif(content: bytes) -> tuple[int, int, int]:
    """Walks the blocks: the decoder unpacks every frame, although only the first is used."""
    width, height = struct.unpack_from("<HH", content, 6)
    position = 13 + (3 << ((content[10] & 7) + 1) if content[10] & 0x80 else 0)
    pixels = frames = blocks = 0
    while True:
        kind = content[position : position + 1]
        if kind == b"!":
            position, blocks = _skip_blocks(content, position + 2, blocks)
        elif kind == b",":
            frame_width, frame_height, flags = struct.unpack_from("<HHB", content, position + 5)
            frames += 1
            pixels += frame_width * frame_height
            width, height = max(width, frame_width), max(height, frame_height)
            position += 10 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
            position, blocks = _skip_blocks(content, position + 1, blocks)
        else:
            break
    if not frames or not width or not height:
        raise ValueError("the GIF has no frame")
    return height, width, max(pixels, height * width * frames)


def _skip_blocks(content: bytes, position: int, blocks: int) -> tuple[int, int]:
    while position < len(content) and content[position]:
        position += 1 + content[position]
        blocks += 1
        if blocks > MAX_GIF_BLOCKS:
            break
    blocks += 1
    if blocks > MAX_GIF_BLOCKS:
        raise ValueError(f"the GIF has more than {MAX_GIF_BLOCKS} blocks")
    return position + 1, blocks


def _bmp(content: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", content, 14)
    if header == 12:
        width, height = struct.unpack_from("<HH", content, 18)
    else:
        width, height = struct.unpack_from("<ii", content, 18)
    return abs(height), abs(width)


def _webp(content: bytes) -> tuple[int, int]:
    kind = content[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(content[24:27], "little") + 1
        height = int.from_bytes(content[27:30], "little") + 1
        if len(content) < 30:
            raise IndexError
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", content, 26))
    else:
        raise ValueError("the WebP has an unknown kind of frame")
    return height, width
