"""Arithmetic shared by the losses; every function has a finite gradient wherever its inputs are finite."""

import math
from typing import Any

from keras import ops

from keras_dml.typing import Tensor

LOWEST = -1e30
"""Stands in for minus infinity where infinities would turn into NaN in a gradient."""


def safe_sqrt(values: Tensor) -> Tensor:
    """Square root with gradient 0 at 0, in place of an infinite one."""
    positive = values > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, values, 1.0)), 0.0)


def row_distances(x: Tensor, y: Tensor) -> Tensor:
    """`(n,)` Euclidean distances of the rows of `x` and `y`, `(n, d)` each."""
    return safe_sqrt(ops.sum(ops.square(x - y), axis=1))


@ops.custom_gradient
def _self_similarities(x: Tensor) -> Tensor:
    def gradient(*args: Any, upstream: Tensor | None = None) -> Tensor:
        if upstream is None:
            (upstream,) = args
        return ops.matmul(upstream + ops.transpose(upstream), x)

    return ops.matmul(x, ops.transpose(x)), gradient


def similarities(x: Tensor, y: Tensor) -> Tensor:
    """`(n, m)` inner products of the rows of `x` `(n, d)` and `y` `(m, d)`."""
    if x is y:
        # The two products of the backward pass, G x and G' x, become one.
        return _self_similarities(x)
    return ops.matmul(x, ops.transpose(y))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """`(n, m)` squared Euclidean distances of the rows of `x` `(n, d)` and `y` `(m, d)`, not negative."""
    squares = ops.sum(ops.square(x), axis=1)
    key_squares = squares if x is y else ops.sum(ops.square(y), axis=1)
    return ops.maximum(squares[:, None] + key_squares[None, :] - 2.0 * similarities(x, y), 0.0)


def masked_logsumexp(values: Tensor, mask: Tensor, axis: int = 1, weight: float = 1.0) -> Tensor:
    """`log(weight * sum(exp(values)))` over the entries in `mask`; `LOWEST` where there is none."""
    masked = ops.where(mask, values, LOWEST)
    greatest = ops.stop_gradient(ops.max(masked, axis=axis, keepdims=True))
    # Masked entries give exp(LOWEST - greatest) = 0, except in rows where all are masked.
    total = ops.sum(ops.where(mask, ops.exp(masked - greatest), 0.0), axis=axis)
    some = total > 0
    if weight != 1.0:
        total = total * weight
    return ops.where(some, ops.log(ops.where(some, total, 1.0)) + ops.squeeze(greatest, axis=axis), LOWEST)


def check_weights(**weights: float) -> None:
    """Raises a ValueError for a weight of a sum that is not a positive finite number."""
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ValueError(f"`{name}` must be a positive finite number. Received: {name}={weight!r}")


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of a vector over the entries in `mask`; 0 where there is none."""
    return ops.sum(ops.where(mask, values, 0.0)) / ops.maximum(ops.sum(ops.cast(mask, values.dtype)), 1.0)


def l2_normalize(x: Tensor) -> Tensor:
    """Rows of `x` `(n, d)` scaled to unit length, whatever their length; a row of zeros stays zero."""
    greatest = ops.stop_gradient(ops.max(ops.abs(x), axis=1, keepdims=True))
    # Squares of very long or very short rows would overflow or vanish.
    x = x / ops.where(greatest > 0, greatest, 1.0)
    squares = ops.sum(ops.square(x), axis=1, keepdims=True)
    return x * ops.rsqrt(ops.where(squares > 0, squares, 1.0))


def bounded_normalize(x: Tensor) -> Tensor:
    """`keras.ops.normalize(x, epsilon=1e-12)`, whose gradient is NaN on JAX for a row of zeros."""
    squares = ops.sum(ops.square(x), axis=-1, keepdims=True)
    some = squares > 0
    inverse = ops.where(some, ops.rsqrt(ops.where(some, squares, 1.0)), 1e12)
    return x * ops.minimum(inverse, 1e12)


def row_norms(x: Tensor) -> Tensor:
    """`(n,)` Euclidean lengths of the rows of `x` `(n, d)`."""
    return safe_sqrt(ops.sum(ops.square(x), axis=1))


def count_rows(rows: Tensor, mask: Tensor, count: Tensor) -> Tensor:
    """`(count,)` float32: how often each row number occurs in `rows` `(n,)` where `mask` holds."""
    return ops.segment_sum(ops.cast(mask, "float32"), rows, num_segments=count)


def smooth_precedence(scores: Tensor, rivals: Tensor, temperature: float) -> Tensor:
    """`(n, m, k)`: how far rival j of query q precedes candidate i, `sigmoid((rivals_qj - scores_qi) / temperature)`.

    Args:
        scores: `(n, m)` similarities of the candidates to the queries.
        rivals: `(n, k)` similarities of those they are ranked against.
        temperature: near 0, the result is 1 where the rival is nearer to the query and 0 elsewhere.
    """
    return ops.sigmoid((rivals[:, None, :] - scores[:, :, None]) / temperature)


def smooth_ranks(precedence: Tensor, rivals: Tensor) -> Tensor:
    """`(n, m)`: one plus the rivals before each candidate, itself apart.

    Args:
        precedence: `(n, m, m)` of `smooth_precedence`, of keys among themselves.
        rivals: `(n, m)` boolean, the keys that count.
    """
    rivals = ops.cast(rivals, precedence.dtype)
    # A candidate ties with itself, which is half a place.
    return 1.0 + ops.squeeze(ops.matmul(precedence, rivals[:, :, None]), axis=2) - 0.5 * rivals
