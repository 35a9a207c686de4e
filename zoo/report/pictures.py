"""Images of a benchmark as data URIs."""

import base64
import io
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_dml.data import Benchmark, Split
from zoo.runs import Embeddings, SavedRun

if TYPE_CHECKING:
    import PIL.Image


class Pictures:
    """Thumbnails of queries and gallery items, as far as the images are there.

    Args:
        queries: Images of the queries, row by row, or None.
        gallery: Images of the gallery, or None.
        problem: Why there are no images; None if there are.
    """

    def __init__(self, queries: Split | None, gallery: Split | None, problem: str | None = None) -> None:
        self.queries = queries
        self.gallery = gallery
        self.problem = problem

    def thumbnail(self, row: int, gallery: bool = False, size: int = 96) -> str | None:
        """One image as a data URI, its longer side `size` pixels; None without images."""
        split = self.gallery if gallery else self.queries
        return None if split is None else data_uri(split.image(row), size)

    def sprite(self, rows: Sequence[int], size: int = 40) -> tuple[str, int] | None:
        """Many query images as tiles of one picture: its data URI and the number of tiles in a line."""
        from PIL import Image

        if self.queries is None or not len(rows):
            return None
        columns = int(np.ceil(np.sqrt(len(rows))))
        lines = -(-len(rows) // columns)
        sheet = Image.new("RGB", (columns * size, lines * size), (128, 128, 128))
        for place, row in enumerate(rows):
            image = _resized(self.queries.image(row), size)
            left = place % columns * size + (size - image.width) // 2
            sheet.paste(image, (left, place // columns * size + (size - image.height) // 2))
        return _encode(sheet, "JPEG"), columns


def find_pictures(
    run: SavedRun, queries: Embeddings, gallery: Embeddings | None, data_dir: pathlib.Path | None
) -> tuple[Pictures, Benchmark | None]:
    """The images behind a run's embeddings, matched by id, and the benchmark they come from."""
    from keras_dml import data

    name = run.config.get("benchmark")
    if name is None:
        return Pictures(None, None, "the run names no benchmark"), None
    try:
        benchmark = data.load(name, data_dir)
    except (ValueError, OSError) as error:
        return Pictures(None, None, str(error)), None
    if not _same_rows(benchmark.test, queries):
        return Pictures(None, None, f"the test images of {name!r} are not the ones that were embedded"), benchmark
    other = benchmark.test if gallery is None else benchmark.gallery
    if gallery is not None and (other is None or not _same_rows(other, gallery)):
        return Pictures(benchmark.test, None, f"the gallery of {name!r} is not the one that was embedded"), benchmark
    return Pictures(benchmark.test, other), benchmark


def _same_rows(split: Split, embeddings: Embeddings) -> bool:
    if embeddings.ids is not None:
        return tuple(split.ids) == embeddings.ids
    return len(split) == len(embeddings.labels) and bool(np.array_equal(split.labels, embeddings.labels))


def data_uri(image: np.ndarray, size: int) -> str:
    """A uint8 image `(height, width, 1 or 3)` as a data URI, its longer side `size` pixels."""
    # JPEG blurs what was enlarged from a handful of pixels; PNG holds it in no space.
    return _encode(_resized(image, size), "PNG" if max(image.shape[:2]) <= 32 else "JPEG")


def pixels_uri(values: np.ndarray) -> str:
    """A `(height, width)` array in [0, 1] as a picture of the same size, 0 transparent and 1 opaque."""
    from PIL import Image

    shade = np.zeros((*values.shape, 4), np.uint8)
    shade[..., :3] = (9, 105, 218)
    shade[..., 3] = np.round(np.clip(values, 0, 1) * 255)
    return _encode(Image.fromarray(shade), "PNG")


def _resized(image: np.ndarray, size: int) -> "PIL.Image.Image":
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    scale = size / max(picture.size)
    shape = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(shape, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _encode(picture: "PIL.Image.Image", kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 80} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
