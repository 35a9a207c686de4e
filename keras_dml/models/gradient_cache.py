"""Gradients of a loss on all embeddings of a batch, for TensorFlow's training step: at once, or chunk by chunk.

In chunks, the batch is embedded without a record of how; the loss gives the gradient of each embedding; then every
chunk is embedded again, with a record, and its part of the gradient goes back through it. Activations of one chunk are
held at a time. On JAX, `MetricLearner.call` has Keras compute each chunk again in the backward pass instead.

Reference: Gao et al., "Scaling deep contrastive learning batch size under memory limited setup", 2021.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import keras

from keras_dml.typing import Tensor

if TYPE_CHECKING or keras.backend.backend() == "tensorflow":
    import tensorflow as tf

Embed = Callable[[Tensor], Tensor]
LossOf = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From embeddings to the loss, and the loss as it is to be differentiated."""
Variables = Callable[[], list[keras.Variable]]
Result = tuple[Tensor, Tensor, list[Tensor | None]]
"""Loss, embeddings `(n, d)`, and the gradient of every variable."""


def plain(embed: Embed, loss_of: LossOf, images: Tensor, variables: Variables) -> Result:
    """One forward and one backward pass."""
    with tf.GradientTape() as tape:
        embeddings = embed(images)
        loss, scaled = loss_of(embeddings)
    return loss, embeddings, tape.gradient(scaled, variables())


def chunked(size: int) -> Callable[[Embed, LossOf, Tensor, Variables], Result]:
    """The same with the activations of `size` images in memory at a time, for one forward pass more."""

    def gradients(embed: Embed, loss_of: LossOf, images: Tensor, variables: Variables) -> Result:
        count = tf.shape(images)[0]
        embeddings = _embed_in_chunks(embed, images, size)
        # Of regularizers and the head the gradient comes from here, of the encoder's embeddings it is handed on.
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            loss, scaled = loss_of(embeddings)
        trained = variables()
        upstream, *direct = tape.gradient(scaled, [embeddings, *(variable.value for variable in trained)])

        def backward(start: Tensor, totals: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            with tf.GradientTape() as tape:
                part = embed(images[start : start + size])
                product = tf.reduce_sum(part * upstream[start : start + size])
            found = tape.gradient(
                product, [variable.value for variable in trained], unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            return start + size, [total + gradient for total, gradient in zip(totals, found, strict=True)]

        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in trained]
        _, through = tf.while_loop(
            lambda start, totals: start < count, backward, [tf.constant(0), zeros], parallel_iterations=1
        )
        return (
            loss,
            embeddings,
            [total if gradient is None else total + gradient for total, gradient in zip(through, direct, strict=True)],
        )

    return gradients


def _embed_in_chunks(embed: Embed, images: Tensor, size: int) -> Tensor:
    count = tf.shape(images)[0]
    first = embed(images[:size])
    empty = first[:0]

    def forward(start: Tensor, done: Tensor) -> tuple[Tensor, Tensor]:
        return start + size, tf.concat([done, embed(images[start : start + size])], axis=0)

    shapes = [tf.TensorShape(()), tf.TensorShape((None, first.shape[-1]))]
    _, embeddings = tf.while_loop(
        lambda start, done: start < count,
        forward,
        [tf.constant(size), tf.concat([empty, first], axis=0)],
        shape_invariants=shapes,
        parallel_iterations=1,
    )
    return tf.ensure_shape(embeddings, (images.shape[0], first.shape[-1]))
