"""A version in memory."""

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from export.changes import ChangeLog
from export.gallery import Gallery
from export.overlay import Overlay
from export.search_model import SearchModel
from export.thumbnails import Thumbnails
from export.versions import GALLERY

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
# Class names that the page offers.
MOST_LABELS = 1000

Identity = tuple[int, int, int]


def identity_of(folder: pathlib.Path) -> Identity:
    """What tells a version from another that was published later under its number: number, time and inode."""
    found = (folder / "manifest.json").stat()
    return int(folder.name) if folder.name.isdecimal() else 0, found.st_mtime_ns, found.st_ino


class LoadedVersion:
    """A loaded model with what a server asks of it, and a count of the requests that use it.

    Args:
        model: The loaded model.
        identity: `identity_of` its folder, where it is known from before the loading.
        log: The changes since versions were built, where there is one.
    """

    def __init__(self, model: SearchModel, identity: Identity | None = None, log: ChangeLog | None = None) -> None:
        self.model = model
        self.identity = identity or identity_of(model.folder)
        self.number = model.version
        self.leases = 0
        self.retired = False
        self.specs: dict[str, dict[str, tf.TensorSpec]] = {
            name: dict(function.structured_input_signature[1]) for name, function in model.signatures.items()
        }
        self.signature_defs = _signature_defs(model)
        # Opened now: the folder may be deleted while the version is still served.
        self.gallery = model.gallery
        self.overlay = None if log is None else Overlay(model, log)
        self.labels = _labels(self.gallery)
        self.thumbnails = Thumbnails.open(model.folder / GALLERY)

    @property
    def changed(self) -> bool:
        """Whether there are changes that this version does not hold."""
        return self.overlay is not None and len(self.overlay) > 0

    def search(self, embeddings: np.ndarray, k: int, where: Any) -> dict[str, np.ndarray]:
        """The outputs of a search under a filter, or of this version with the changes since."""
        if self.overlay is not None and len(self.overlay):
            return self.overlay.search(embeddings, k, where)
        return self.model.search_where(embeddings, k, where)

    def warm_up(self) -> None:
        """Runs every signature once, so that the first request finds traced and allocated functions."""
        examples: dict[str, Any] = {
            "embeddings": np.zeros((1, self.model.embedding_dim), np.float32),
            "images": np.zeros((1, 8, 8, 3), np.uint8),
            "image_bytes": np.array([tf.io.encode_png(np.zeros((8, 8, 3), np.uint8)).numpy()], dtype=object),
        }
        for signature, specs in self.specs.items():
            self.model.call(signature, {name: examples[name] for name in specs if name != "k"})


def _labels(gallery: Gallery) -> list[str]:
    """The first class names, for the page to offer; none where a gallery has no labels."""
    labels = gallery.metadata.get("label")
    if labels is None or labels.dtype != object:
        return []
    return sorted(set(labels.tolist()) - {""})[:MOST_LABELS]


def _signature_defs(model: SearchModel) -> dict[str, meta_graph_pb2.SignatureDef]:
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((model.folder / "saved_model.pb").read_bytes())
    return {name: saved.meta_graphs[0].signature_def[name] for name in model.signatures}
