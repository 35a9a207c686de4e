"""Sizes from headers against real decoders, and hostile files."""

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from export.image_header import image_size


def encoded(kind, height, width, mode="RGB", **options):
    stream = io.BytesIO()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    image.convert(mode).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("PNG", {"mode": "P"}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"mode": "L", "comment": b"\xff\xc0 looks like a frame" * 40}),
        ("JPEG", {"mode": "CMYK"}),
        ("GIF", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"mode": "RGBA"}),
    ],
)
def test_size_of_real_files(kind, options):
    assert image_size(encoded(kind, 37, 111, **options))[:2] == (37, 111)


def test_every_frame_of_a_gif_counts():
    stream = io.BytesIO()
    frames = [Image.fromarray(np.full((20, 30), 40 * n, np.uint8)) for n in range(5)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    height, width, pixels = image_size(stream.getvalue())
    assert (height, width) == (20, 30)
    assert pixels == 5 * 600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"BM",
        b"RIFF0000WEBP",
        b"RIFF0000WEBPVP8X" + bytes(8),
        b"%PDF-1.4",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xff\xd8\xff\xda" + bytes(100),
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 0, 5),
    ],
)
def test_what_is_no_image(content):
    with pytest.raises(ValueError, match=r"image|JPEG|PNG|GIF|WebP"):
        image_size(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_cut_anywhere_it_answers_or_refuses(kind):
    content = encoded(kind, 9, 7)
    assert image_size(content)[:2] == (9, 7)
    for length in range(len(content)):
        try:
            size = image_size(content[:length])
        except ValueError:
            continue
        assert size[:2] == (9, 7)


def run_lines(function, limit):
    """Calls `function`; an AssertionError once it has run more than `limit` lines of Python."""
    count, before = 0, sys.gettrace()

    def trace(frame, event, argument):
        nonlocal count
        count += 1
        assert count <= limit, f"more than {limit} lines"
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8\xff" + bytes(8_000_000),
        b"\xff\xd8" + b"\xff" * 8_000_000,
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 2_000_000,
        b"\xff\xd8\xff" + b"\xff\xda" * 1000,
        b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0, 0, 0) + b"!\xf9" + b"\x01\x00" * 4_000_000,
        b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0, 0, 0) + b"!\xf9\x00" * 2_000_000,
    ],
)
def test_hostile_files_are_refused_quickly(content):
    # Far below the millions that walking these files to their end takes, and no measurement of time.
    with pytest.raises(ValueError, match=r"header|segments|scans|blocks|JPEG|GIF"):
        run_lines(lambda: image_size(content), 4_000_000)
