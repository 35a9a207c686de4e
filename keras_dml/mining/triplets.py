"""What a miner returns."""

from typing import NamedTuple

from keras_dml.typing import Tensor


class Triplets(NamedTuple):
    """One triplet for every query, as row numbers.

    Attributes:
        anchor: `(q,)` int32, the queries in order: 0 to q - 1.
        positive: `(q,)` int32, rows of the keys.
        negative: `(q,)` int32, rows of the keys.
        valid: `(q,)` boolean; False where a query has no positive or no negative. The row numbers of such a triplet
            mean nothing, though they are rows that exist.
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor
    valid: Tensor
