"""Encoded images of every kind, and what is no image."""

import numpy as np
from PIL import Image
from tiny_pictures import encoded, photograph

KINDS = {
    "jpeg": lambda: encoded(photograph(0), quality=92),
    "gray jpeg": lambda: encoded(photograph(0).convert("L"), quality=92),
    "cmyk jpeg": lambda: encoded(photograph(0).convert("CMYK"), quality=92),
    "progressive jpeg": lambda: encoded(photograph(0), quality=92, progressive=True),
    "png": lambda: encoded(photograph(0), "PNG"),
    "gray png": lambda: encoded(photograph(0).convert("L"), "PNG"),
    "palette png": lambda: encoded(photograph(0).quantize(32), "PNG"),
    "one bit png": lambda: encoded(photograph(0).convert("1"), "PNG"),
    "16 bit png": lambda: encoded(Image.fromarray(np.asarray(photograph(0).convert("L"), np.uint16) * 257), "PNG"),
    "gif": lambda: encoded(photograph(0).quantize(32), "GIF"),
    "bmp": lambda: encoded(photograph(0), "BMP"),
    "webp": lambda: encoded(photograph(0), "WEBP", lossless=True),
}


def overwritten(content, first, count, value):
    return content[:first] + bytes([value]) * count + content[first + count :]


BAD = {
    "empty.jpg": b"",
    "one.jpg": b"\xff",
    "truncated.jpg": KINDS["jpeg"]()[:-200],
    "without_end.jpg": KINDS["jpeg"]()[:-2],
    "truncated.png": KINDS["png"]()[:-200],
    "header_only.png": KINDS["png"]()[:8],
    "text.jpg": b"<html>404 Not Found</html>",
    "damaged.png": overwritten(KINDS["png"](), 200, 50, 0),
    # Their first and last bytes are those of a good JPEG.
    "damaged_header.jpg": overwritten(KINDS["jpeg"](), KINDS["jpeg"]().index(b"\xff\xc0"), 10, 0),
    "damaged_body.jpg": overwritten(KINDS["jpeg"](), len(KINDS["jpeg"]()) // 2, 100, 255),
}
