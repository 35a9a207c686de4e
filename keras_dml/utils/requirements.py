"""What needs TensorFlow, and whether image work is its."""

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator

TRAINABLE = ("tensorflow", "jax")
"""Keras's backends that this package trains on."""


def uses_tensorflow(*values: object) -> bool:
    """Whether images go through TensorFlow's ops rather than NumPy and Pillow.

    They do under Keras's TensorFlow backend, and where one of `values` is a TensorFlow tensor already. The choice
    follows the backend, not what happens to be installed: the same script gives the same numbers everywhere.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        return True
    tensorflow = sys.modules.get("tensorflow")
    return hasattr(tensorflow, "is_tensor") and any(map(tensorflow.is_tensor, values))  # type: ignore[union-attr]


def tensorflow_module(name: str, what: str) -> types.ModuleType:
    """A module of TensorFlow or of a package on top of it.

    Args:
        name: The module, such as "tensorflow_datasets".
        what: What needs it, as the beginning of the error's sentence.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'{what} needs {name.partition(".")[0]}, which is not installed: pip install "keras-dml[tensorflow]"'
        ) from error


@contextlib.contextmanager
def backend_required() -> Iterator[None]:
    """A context in which Keras may be imported for the first time; a missing backend is named, with what to do.

    Raises:
        ImportError: Keras's backend is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # Once Keras is there, its backend is, and something else is missing.
        if "keras" in sys.modules or error.name == "keras":
            raise
        raise ImportError(
            f'Keras\'s backend cannot be imported: {error}. Install one with pip install "keras-dml[tensorflow]" or '
            '"keras-dml[jax]", and choose it with KERAS_BACKEND=tensorflow or KERAS_BACKEND=jax'
        ) from error


def check_trainable() -> None:
    """Refuses to train on a backend that this package has no training step for.

    Raises:
        ValueError: Keras's backend is neither TensorFlow nor JAX.
    """
    import keras

    if keras.backend.backend() not in TRAINABLE:
        raise ValueError(
            "Training runs on Keras's TensorFlow and JAX backends: set KERAS_BACKEND=tensorflow or KERAS_BACKEND=jax. "
            f"Received: KERAS_BACKEND={keras.backend.backend()}"
        )
