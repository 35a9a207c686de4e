"""A ScaNN index as a resource of a SavedModel, its data as SavedModel assets."""

import pathlib
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Sequence

# Order of the tensors that ScaNN's scann_to_tensors returns.
TENSORS = (
    "scann_config",
    "serialized_partitioner",
    "datapoint_to_token",
    "ah_codebook",
    "hashed_dataset",
    "int8_dataset",
    "int8_multipliers",
    "dp_norms",
    "dataset",
)


class ScannResource(tf.saved_model.experimental.TrackableResource):
    """Holds a searcher's tensors as raw files and turns them into a searcher when the SavedModel is loaded.

    Variables would be the simpler place for the tensors, but they stay in memory beside the searcher and leak when
    models are reloaded. `_create_resource` has no access to assets, so the searcher is made by `_initialize` under a
    shared name; `handle` finds it there. `tf.saved_model.load` adds a suffix of its own to shared names on every
    load, and a session has its own resources: two loads never meet.

    Args:
        scann_ops: The module returned by `export.scann_ops.register`.
        tensors: What ScaNN's `scann_to_tensors` returned.
        folder: Where the raw files are written; may be deleted after the SavedModel is saved.
    """

    def __init__(self, scann_ops: Any, tensors: "Sequence[tf.Tensor]", folder: pathlib.Path) -> None:
        super().__init__(device="CPU")
        self._scann_ops = scann_ops
        self._shared_name = f"scann-{uuid.uuid4().hex}"
        self._assets: dict[str, tf.saved_model.Asset] = {}
        self._dtypes: dict[str, tf.DType] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for name, tensor in zip(TENSORS, tensors, strict=True):
            path = folder / f"{name}.bin"
            value = tensor.numpy()
            if tensor.dtype == tf.string:
                path.write_bytes(np.asarray(value, dtype=object).reshape(-1)[0])
            else:
                np.ascontiguousarray(value).tofile(path)
            self._dtypes[name] = tensor.dtype
            self._shapes[name] = tuple(tensor.shape)
            # By hand: a TrackableResource does not track its attributes, and an untracked asset leaves the path of
            # the build machine in the graph.
            self._assets[name] = self._track_trackable(tf.saved_model.Asset(str(path)), f"asset_{name}")

    def _create_resource(self) -> tf.Tensor:
        # A stand-in that nobody looks up: the base class wants a handle before assets can be read.
        return tf.raw_ops.AnonymousMutableHashTable(key_dtype=tf.int64, value_dtype=tf.int64)

    def _initialize(self) -> None:
        tensors = {}
        for name, asset in self._assets.items():
            raw = tf.io.read_file(asset.asset_path)
            if self._dtypes[name] != tf.string:
                raw = tf.io.decode_raw(raw, self._dtypes[name])
            tensors[name] = tf.reshape(raw, self._shapes[name])
        _make_searcher(self._scann_ops, self._shared_name, tensors)

    def _destroy_resource(self) -> None:
        tf.raw_ops.DestroyResourceOp(resource=self.handle(), ignore_lookup_error=True)

    def handle(self) -> tf.Tensor:
        """Handle of the searcher that `_initialize` made, a scalar resource."""
        return searcher_handle(self._scann_ops, self._shared_name)


_EMPTY = {
    "scann_config": (0, tf.string),
    "serialized_partitioner": (0, tf.string),
    "datapoint_to_token": (1, tf.int32),
    "ah_codebook": (0, tf.string),
    "hashed_dataset": (2, tf.uint8),
    "int8_dataset": (2, tf.int8),
    "int8_multipliers": (1, tf.float32),
    "dp_norms": (1, tf.float32),
    "dataset": (2, tf.float32),
}


def searcher_handle(scann_ops: Any, shared_name: str) -> tf.Tensor:
    """Handle of the searcher that exists under `shared_name`, a scalar resource.

    Args:
        scann_ops: The module returned by `export.scann_ops.register`.
        shared_name: Name of the searcher.
    """
    # The op ignores its inputs when a searcher of this name exists.
    empty = {name: tf.zeros((0,) * rank, dtype) for name, (rank, dtype) in _EMPTY.items()}
    return _make_searcher(scann_ops, shared_name, empty)


def _make_searcher(scann_ops: Any, shared_name: str, tensors: dict[str, tf.Tensor]) -> tf.Tensor:
    columns = {name: tensors[name] for name in TENSORS if name != "dataset"}
    return scann_ops.tensors_to_scann(x=tensors["dataset"], shared_name=shared_name, **columns)
