"""A version in memory."""

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from export.search_model import SearchModel
from export.thumbnails import Thumbnails
from export.versions import GALLERY

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY


class LoadedVersion:
    """A loaded model with what a server asks of it, and a count of the requests that use it.

    Args:
        model: The loaded model.
    """

    def __init__(self, model: SearchModel) -> None:
        self.model = model
        self.number = model.version
        self.leases = 0
        self.retired = False
        self.specs: dict[str, dict[str, tf.TensorSpec]] = {
            name: dict(function.structured_input_signature[1]) for name, function in model.signatures.items()
        }
        self.signature_defs = _signature_defs(model)
        self.thumbnails = Thumbnails.open(model.folder / GALLERY)

    def call(self, signature: str, inputs: "Mapping[str, np.ndarray]") -> dict[str, np.ndarray]:
        """Computes a signature; `k` falls back to the model's default."""
        specs = self.specs[signature]
        tensors = {name: tf.constant(value, specs[name].dtype) for name, value in inputs.items()}
        if "k" in specs and "k" not in tensors:
            tensors["k"] = tf.constant(self.model.default_k, tf.int32)
        return {name: value.numpy() for name, value in self.model.signatures[signature](**tensors).items()}

    def warm_up(self) -> None:
        """Runs every signature once, so that the first request finds traced and allocated functions."""
        examples: dict[str, Any] = {
            "embeddings": np.zeros((1, self.model.embedding_dim), np.float32),
            "images": np.zeros((1, 8, 8, 3), np.uint8),
            "image_bytes": np.array([tf.io.encode_png(np.zeros((8, 8, 3), np.uint8)).numpy()], dtype=object),
        }
        for signature, specs in self.specs.items():
            self.call(signature, {name: examples[name] for name in specs if name != "k"})


def _signature_defs(model: SearchModel) -> dict[str, meta_graph_pb2.SignatureDef]:
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((model.folder / "saved_model.pb").read_bytes())
    return {name: saved.meta_graphs[0].signature_def[name] for name in model.signatures}
