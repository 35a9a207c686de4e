"""Names that modules of all kinds share, most of them for what Keras leaves untyped."""

from collections.abc import Sequence
from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of the active backend, a `keras.Variable`, a symbolic `keras.KerasTensor`, or what converts to one."""

Shape: TypeAlias = Sequence[int | None]
"""A shape; None stands for a size that is not known yet."""

METRICS = ("cosine", "euclidean")
"""How an evaluation compares embeddings."""
