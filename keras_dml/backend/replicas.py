"""One loss on the batches of all replicas of a `tf.distribute` strategy.

Negatives, mined tuples, banks and memories concern the global batch, so every replica gathers the embeddings and labels
of all and computes the same loss on them. No gradient is communicated backwards: the own rows are put back into what
was gathered, each replica's gradient of the encoder is that of its own rows, and their sum is the gradient of the
global batch. The gradient of the head (proxies, boundaries, pair scorer) is whole on every replica.

On JAX, `keras.distribution` lets a step see the global batch by itself, and nothing here is used.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_dml.typing import Tensor

if TYPE_CHECKING or keras.backend.backend() == "tensorflow":
    import tensorflow as tf
else:
    tf = None


def count() -> int:
    """Replicas of the current strategy; 1 without one and on other backends."""
    return 1 if tf is None else int(tf.distribute.get_strategy().num_replicas_in_sync)


def check_strategy() -> None:
    """Raises where several devices would train something else than one.

    Raises:
        ValueError: For a strategy of several hosts, and for `keras.distribution` on a backend that ignores it.
    """
    several = "Use the JAX backend there: keras.distribution.initialize(...) on every host, then "
    parallel = "keras.distribution.set_distribution(keras.distribution.DataParallel())"
    if keras.backend.backend() != "jax" and keras.distribution.distribution() is not None:
        raise ValueError(
            f"keras.distribution has no effect on the {keras.backend.backend()} backend: every process would train "
            "alone. Set KERAS_BACKEND=jax, or on one host build and fit the model in the scope of a "
            "tf.distribute.MirroredStrategy"
        )
    if tf is None or not tf.distribute.has_strategy():
        return
    strategy = tf.distribute.get_strategy()
    known = tf.distribute.MirroredStrategy | tf.distribute.OneDeviceStrategy
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or not isinstance(strategy, known):
        raise ValueError(
            f"{type(strategy).__name__} does not train correctly with Keras {keras.__version__} (keras issue 20585). "
            f"One host: tf.distribute.MirroredStrategy. Several hosts: {several}{parallel}"
        )


def gather(rows: Tensor) -> Tensor:
    """`(n, ...)` of this replica as `(count * n, ...)` of all, in their order; the gradient reaches the own rows alone.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, if replicas have different numbers of rows.
    """
    if count() == 1:
        return rows
    context = tf.distribute.get_replica_context()
    n = tf.shape(rows)[0]
    sizes = context.all_gather(n[None], axis=0)
    with tf.control_dependencies([tf.debugging.assert_equal(sizes, n, message=_UNEVEN)]):
        # Through a value: what is gathered is put together outside of this context.
        own = tf.identity(rows)
    everyone = context.all_gather(tf.stop_gradient(own), axis=0)
    start = context.replica_id_in_sync_group * n
    union = tf.concat([everyone[:start], rows, everyone[start + n :]], axis=0)
    return tf.ensure_shape(union, (None if rows.shape[0] is None else count() * rows.shape[0], *rows.shape[1:]))


_UNEVEN = "A batch must divide by the replicas. Give a batch size that does, and drop the remainder"


@contextlib.contextmanager
def uneven_batches_named() -> Iterator[None]:
    """A context in which a batch that does not divide by the replicas is a ValueError that says so."""
    if tf is None:
        yield
        return
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        # Keras adds up the parts of the first batch, before any step.
        if _UNEVEN not in str(error) and "AddN must have the same size" not in str(error):
            raise
        raise ValueError(f"{_UNEVEN}. Received: parts of different sizes") from error


def once(value: Tensor) -> Tensor:
    """`value`, which every replica has, with a gradient that counts once in the sum over replicas."""
    replicas = count()
    return value if replicas == 1 else value / replicas + tf.stop_gradient(value - value / replicas)


def reduce_gradients(gradients: Sequence[Tensor | None], in_head: Sequence[bool]) -> list[Tensor | None]:
    """The gradients of the global batch, the same on every replica: sums of the encoder's; the head's are it already.

    Args:
        gradients: This replica's, None where a variable has none.
        in_head: Which of them belong to the head.
    """
    if tf is None:
        return list(gradients)
    # Those of boundaries and proxies that are looked up are sparse. Made dense, momentum moves all classes, as on other
    # backends and in PyTorch.
    gradients = [
        tf.convert_to_tensor(gradient) if head and gradient is not None else gradient
        for gradient, head in zip(gradients, in_head, strict=True)
    ]
    if count() == 1:
        return gradients
    own = [
        place
        for place, (gradient, head) in enumerate(zip(gradients, in_head, strict=True))
        if gradient is not None and not head
    ]
    context = tf.distribute.get_replica_context()
    summed = context.all_reduce(tf.distribute.ReduceOp.SUM, [tf.convert_to_tensor(gradients[place]) for place in own])
    for place, gradient in zip(own, summed, strict=True):
        gradients[place] = gradient
    return gradients


def predict(model: keras.Model, inputs: Tensor) -> np.ndarray:
    """Outputs of a model for one batch, however many devices it was built on and whether or not they divide the batch.

    Args:
        model: From `(n, ...)` inputs to `(n, d)`.
        inputs: `(n, ...)`.

    Returns:
        `(n, d)`.
    """
    count_of_rows = int(inputs.shape[0])
    distribution = keras.distribution.distribution()
    if keras.backend.backend() == "jax" and distribution is not None:
        devices = math.prod(distribution.device_mesh.shape)
        inputs = np.asarray(inputs)
        missing = -count_of_rows % devices
        if missing:
            inputs = np.concatenate([inputs, np.repeat(inputs[-1:], missing, axis=0)])
    # Replicas of TensorFlow are given the whole batch each, and their outputs come one after another.
    return np.asarray(model.predict_on_batch(inputs))[:count_of_rows]
