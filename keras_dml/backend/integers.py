"""64-bit integers, which JAX has only where they are asked for.

Elsewhere it cuts them to 32 bits without a word: the labels 7 and 7 + 2**32 would be one class.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dml.typing import Tensor

if keras.backend.backend() == "jax":
    import jax
else:
    jax = None


def widest() -> str:
    """The type that holds the integers of every other one the backend computes with: int64 or int32."""
    return "int64" if jax is None or jax.config.jax_enable_x64 else "int32"


def exact(values: Tensor, name: str) -> Tensor:
    """A tensor of integers as int32, or as the widest type where int32 would not hold all values of its own.

    Raises:
        ValueError: For a tensor of any other type.
    """
    dtype = keras.backend.standardize_dtype(values.dtype)
    if "int" not in dtype:
        raise ValueError(f"`{name}` must be integers. Received: dtype={dtype}. Cast the class numbers to int32.")
    return ops.cast(values, widest() if dtype in ("int64", "uint64", "uint32") else "int32")


def check_width(values: Any, name: str) -> None:
    """Raises ValueError for an array of integers that the backend would cut; tensors, which are cut already, pass."""
    if widest() == "int64" or not isinstance(values, np.ndarray) or values.dtype not in (np.int64, np.uint64):
        return
    wide = np.ravel(values.astype("int32") != values)
    if wide.any():
        row = int(np.argmax(wide))
        raise ValueError(
            f"`{name}` must fit into 32 bits on JAX. Received: {np.ravel(values)[row]} in row {row} ({int(wide.sum())} "
            "such rows). Number them from 0, or let JAX compute with 64 bits: "
            'jax.config.update("jax_enable_x64", True)'
        )
