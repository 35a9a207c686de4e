"""Read and change a few rows of a large Keras variable without touching the rest.

`keras.ops.scatter_update` followed by `assign` copies the whole variable, and on TensorFlow any dense read of a
variable that was scattered to copies it too. With a bank of 232 MB (11,318 classes, 10 rows of 512 floats) either costs
more than the rest of the training step. On TensorFlow the functions below therefore use the resource operations, whose
cost is that of the rows named. On other backends, and wherever the variable stands for a plain tensor (stateless
calls), they fall back to `scatter` + `assign`; a compiled step of those backends can reuse the buffer.

`indices` are int32 `(n, r)`, the first `r` coordinates of each row. They must lie within the variable: elsewhere XLA
ignores them and TensorFlow raises.
"""

import keras
import numpy as np
from keras import ops

from keras_dml.typing import Tensor

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
else:
    tf = None


def _resource(variable: keras.Variable) -> "tf.Variable | None":
    """The `tf.Variable` behind a Keras variable, or None where there is none to change in place."""
    value = variable.value
    if tf is None:
        return None
    if isinstance(value, tf.distribute.DistributedValues):
        # Each replica keeps a copy of its own; with the same inputs on all of them the copies stay equal bit for bit.
        context = tf.distribute.get_replica_context()
        return None if context is None else _local(value, context)
    return value if isinstance(value, tf.Variable) else None


def _local(value: "tf.distribute.DistributedValues", context: "tf.distribute.ReplicaContext") -> "tf.Variable":
    """This replica's copy of a distributed variable."""
    replica = context.replica_id_in_sync_group
    number = int(tf.get_static_value(replica)) if tf.is_tensor(replica) else int(replica)
    return context.strategy.experimental_local_results(value)[number]


def gather_rows(source: Tensor, rows: Tensor) -> Tensor:
    """Returns `source[rows]`, `(n, ...)`, for a variable or tensor and int32 `rows` `(n,)`, none of them negative."""
    if isinstance(source, keras.Variable):
        # The first axis alone: XLA has no kernel for gather_nd on a resource.
        source = source.value
    # `keras.ops.take` first resolves negative rows, which takes three more kernels a call.
    return ops.take(source, rows, axis=0) if tf is None else tf.gather(source, rows)


def scatter_add(variable: keras.Variable, indices: Tensor, updates: Tensor) -> None:
    """Adds `updates` `(n, ...)` to the rows that `indices` names; a row named twice receives both."""
    resource = _resource(variable)
    if resource is not None:
        resource.scatter_nd_add(indices, updates)
        return
    dense = ops.zeros(variable.shape, variable.dtype)
    variable.assign(ops.add(variable.value, ops.scatter(indices, updates, dense.shape)))


def scatter_write(variable: keras.Variable, indices: Tensor, updates: Tensor) -> None:
    """Overwrites the rows that `indices` names; a row named twice must be given the same values twice."""
    resource = _resource(variable)
    if resource is not None:
        resource.scatter_nd_update(indices, updates)
        return
    variable.assign(ops.scatter_update(variable.value, indices, updates))


def concrete(tensor: Tensor) -> np.ndarray | None:
    """The values of `tensor`, or None where they are not known yet: in a traced or compiled function, or symbolic."""
    if isinstance(tensor, keras.KerasTensor) or (tf is not None and not tf.executing_eagerly()):
        return None
    try:
        return np.asarray(ops.convert_to_numpy(tensor))
    except (TypeError, RuntimeError):  # a JAX tracer, or an array of which other hosts hold a part
        return None
