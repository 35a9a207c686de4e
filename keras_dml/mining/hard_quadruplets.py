"""Hard quadruplets, mined from a matrix of learned similarities."""

from typing import NamedTuple

from keras import ops

from keras_dml.typing import Tensor

STRATEGIES = ("batch", "anchor", "pair")


class Quadruplets(NamedTuple):
    """Indices of mined quadruplets `(i, j, k, l)`, each field of shape `(t,)`.

    A row that is not `valid` holds arbitrary indices within range: mask what is computed from it.
    """

    anchor: Tensor
    """`i`, row of the queries."""
    positive: Tensor
    """`j`, row of the keys: the positive least similar to `i`."""
    anchor_negative: Tensor
    """`k`, row of the keys: the negative most similar to `i`."""
    positive_negative: Tensor
    """`l`, the negative most similar to `j`: row of the keys; where the keys are not the queries, row of the
    queries."""
    valid: Tensor
    """bool: whether the row is a quadruplet."""


def hard_quadruplets(
    scores: Tensor,
    labels: Tensor,
    key_labels: Tensor | None = None,
    ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    strategy: str = "batch",
) -> Quadruplets:
    """Find the quadruplets that a similarity judges hardest.

    A quadruplet is a positive pair `(i, j)`, the negative `k` most similar to `i` and the negative `l` most similar to
    `j`. The triplet variant is the same without `l`. Which positive pairs are used is a matter of `strategy`:

    - `"batch"`, as published: the least similar positive pair of the batch, so one quadruplet (`t = 1`).
    - `"anchor"`, this library's variant: the least similar positive of each row (`t = n`).
    - `"pair"`, this library's variant: each row with the next row of its class, cyclically (`t = n`), so that only the
      negatives are hard. Among K rows per class each row is in two of the positive pairs.

    docs/pddm.md has what each of them learns from random weights.

    A pair of an item with itself is never positive and never negative: the diagonal without `key_labels`, equal ids
    with them.

    Args:
        scores: similarities `(n, m)`, larger is more similar. Must be finite.
        labels: integer class of each row, `(n,)` or `(n, 1)`.
        key_labels: integer class of each column, `(m,)`; `None` where rows and columns are the same items.
        ids: integer identity of each row, `(n,)`. Without `key_labels` it may name rows that show the same item; each
            row is an item of its own by default.
        key_ids: integer identity of each column, `(m,)`. A negative one marks an empty column, which is ignored.
        strategy: `"batch"`, `"anchor"` or `"pair"`, see above.

    Returns:
        `Quadruplets` of static length. A batch without a positive pair, or of one class, has no valid row.

    Reference: Huang, Loy, Tang, "Local Similarity-Aware Deep Feature Embedding", NIPS 2016.

    Example:
        >>> scores = np.array([[9.0, 0.1, 0.7, 0.2], [0.1, 9.0, 0.3, 0.8], [0.7, 0.3, 9.0, 0.4], [0.2, 0.8, 0.4, 9.0]])
        >>> i, j, k, l, valid = hard_quadruplets(scores, np.array([0, 0, 1, 1]))
        >>> [int(index[0]) for index in (i, j, k, l)]
        [0, 1, 2, 3]
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"`strategy` must be one of {', '.join(STRATEGIES)}. Received: strategy={strategy!r}")
    scores = ops.convert_to_tensor(scores)
    if len(scores.shape) != 2:
        raise ValueError(f"`scores` must have shape (queries, keys). Received: shape {tuple(scores.shape)}")
    labels = ops.reshape(labels, (-1,))
    same_items = key_labels is None
    columns = labels if same_items else ops.reshape(key_labels, (-1,))
    same_class = ops.expand_dims(labels, 1) == ops.expand_dims(ops.cast(columns, labels.dtype), 0)
    if same_items:
        own_ids = ops.arange(ops.shape(labels)[0]) if ids is None else ops.reshape(ids, (-1,))
        usable = ops.not_equal(own_ids[:, None], own_ids[None, :])
    elif ids is not None and key_ids is not None:
        key_ids = ops.expand_dims(ops.reshape(key_ids, (-1,)), 0)
        ids = ops.cast(ops.reshape(ids, (-1, 1)), key_ids.dtype)
        usable = ops.logical_and(ids != key_ids, key_ids >= 0)
    else:
        usable = ops.ones_like(same_class)
    positives = ops.logical_and(same_class, usable)
    negatives = ops.logical_and(ops.logical_not(same_class), usable)

    positive_scores = ops.where(positives, scores, float("inf"))
    negative_scores = ops.where(negatives, scores, float("-inf"))
    # A batch may hold a row of either kind only, so both are asked for: argmin and argmax answer in any case.
    if strategy == "pair":
        rows, columns_count = ops.shape(scores)
        ahead = (ops.arange(columns_count)[None, :] - ops.arange(rows)[:, None]) % columns_count
        chosen_positive = ops.argmin(ops.where(positives, ahead, columns_count), axis=1)
    else:
        chosen_positive = ops.argmin(positive_scores, axis=1)
    hardest_negative = ops.argmax(negative_scores, axis=1)
    has_positive = ops.any(positives, axis=1)
    has_negative = ops.any(negatives, axis=1)
    if same_items:
        key_negative, key_has_negative = hardest_negative, has_negative
    else:
        key_negative, key_has_negative = ops.argmax(negative_scores, axis=0), ops.any(negatives, axis=0)

    if strategy == "batch":
        usable_rows = ops.logical_and(has_positive, has_negative)
        lowest = ops.where(usable_rows, ops.min(positive_scores, axis=1), float("inf"))
        anchor = ops.cast(ops.expand_dims(ops.argmin(lowest), 0), "int32")
    else:
        anchor = ops.arange(ops.shape(scores)[0], dtype="int32")
    positive = ops.take(chosen_positive, anchor, axis=0)
    valid = ops.logical_and(ops.take(has_positive, anchor, axis=0), ops.take(has_negative, anchor, axis=0))
    return Quadruplets(
        anchor=anchor,
        positive=ops.cast(positive, "int32"),
        anchor_negative=ops.cast(ops.take(hardest_negative, anchor, axis=0), "int32"),
        positive_negative=ops.cast(ops.take(key_negative, positive, axis=0), "int32"),
        valid=ops.logical_and(valid, ops.take(key_has_negative, positive, axis=0)),
    )
