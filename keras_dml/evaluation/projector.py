"""Embeddings for TensorBoard's projector."""

import pathlib
from collections.abc import Sequence

import numpy as np

from keras_dml.typing import Tensor

CONFIG = "projector_config.pbtxt"


def write_projector(
    folder: str | pathlib.Path,
    embeddings: Tensor,
    labels: Tensor,
    class_names: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    thumbnails: Tensor | None = None,
    name: str = "embeddings",
) -> pathlib.Path:
    """Writes the files that `tensorboard --logdir FOLDER` shows under Projector.

    Args:
        folder: The log folder; made if missing. Its projector configuration is replaced.
        embeddings: `(n, d)` vectors. The projector is comfortable with some ten thousand.
        labels: `(n,)` class labels.
        class_names: Names by label.
        ids: `(n,)` further names of the items.
        thumbnails: `(n, side, side, 1 or 3)` uint8 images, shown in place of points.
        name: What the projector calls the set, and the files begin with.

    Returns:
        The configuration file.
    """
    vectors, labels = np.asarray(embeddings, np.float32), np.asarray(labels).ravel()
    if not len(vectors) == len(labels) == len(ids if ids is not None else labels):
        raise ValueError(
            f"Embeddings, labels and ids must be equally many. Received: {len(vectors)} embeddings, "
            f"{len(labels)} labels{'' if ids is None else f', {len(ids)} ids'}"
        )
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / f"{name}.tsv", vectors, fmt="%.9g", delimiter="\t")
    classes = [str(label) if class_names is None else class_names[label] for label in labels]
    names = [str(row) for row in range(len(labels))] if ids is None else list(ids)
    lines = ["class\tid", *(f"{_cell(one)}\t{_cell(other)}" for one, other in zip(classes, names, strict=True))]
    (folder / f"{name}-metadata.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    entry = [f'tensor_name: "{name}"', f'tensor_path: "{name}.tsv"', f'metadata_path: "{name}-metadata.tsv"']
    if thumbnails is not None:
        side = _write_sprite(folder / f"{name}-sprite.png", np.asarray(thumbnails), len(labels))
        entry.append(f'sprite {{ image_path: "{name}-sprite.png" single_image_dim: [{side}, {side}] }}')
    path = folder / CONFIG
    path.write_text("embeddings {\n  " + "\n  ".join(entry) + "\n}\n", encoding="utf-8")
    return path


def _cell(text: str) -> str:
    return " ".join(str(text).split())


def _write_sprite(path: pathlib.Path, images: np.ndarray, count: int) -> int:
    """Lays square images out line by line on a square sheet; returns their side."""
    from PIL import Image

    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1] != images.shape[2] or len(images) != count:
        raise ValueError(
            f"`thumbnails` must be uint8 of shape ({count}, side, side, 1 or 3). "
            f"Received: shape {images.shape}, dtype {images.dtype}"
        )
    side = images.shape[1]
    columns = int(np.ceil(np.sqrt(count)))
    sheet: np.ndarray = np.zeros((columns * side, columns * side, 3), np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * side, place % columns * side
        sheet[top : top + side, left : left + side] = image
    Image.fromarray(sheet).save(path)
    return side
