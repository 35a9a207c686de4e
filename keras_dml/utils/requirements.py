"""What needs TensorFlow, and whether image work is its."""

import importlib
import sys
import types


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
