"""Registers ScaNN's TensorFlow ops, or says what keeps them from loading."""

import importlib.metadata
from typing import Any

# The C++ symbols of TensorFlow change with every minor release and pip does not notice a mismatch.
SUPPORTED = {"1.4.2": "2.20"}


def register() -> Any:
    """Loads ScaNN's op library into TensorFlow and returns its Python wrappers.

    Returns:
        The module `scann.scann_ops.py.scann_ops`.

    Raises:
        RuntimeError: scann is not installed, or was built for another TensorFlow.
    """
    import tensorflow as tf

    remedy = "Or load the model's exact twin, which needs no scann: export.load(path, brute_force=True)"
    try:
        version = importlib.metadata.version("scann")
    except importlib.metadata.PackageNotFoundError:
        raise RuntimeError(
            "This model's index needs the package scann, which is not installed. Install the pair that fits: "
            f"pip install 'scann[tf]==1.4.2' 'tensorflow==2.20.*' (found: TensorFlow {tf.__version__}). {remedy}"
        ) from None
    expected = SUPPORTED.get(version)
    if expected is not None and not tf.__version__.startswith(expected + "."):
        raise RuntimeError(
            f"scann {version} works with TensorFlow {expected} alone. Received: TensorFlow {tf.__version__}. "
            f"Install the pair that fits: pip install 'scann[tf]=={version}' 'tensorflow=={expected}.*'. {remedy}"
        )
    try:
        from scann.scann_ops.py import scann_ops
    except Exception as error:
        raise RuntimeError(
            f"The ops of scann {version} do not load into TensorFlow {tf.__version__}: {error}. Install the pair that "
            f"fits: pip install 'scann[tf]==1.4.2' 'tensorflow==2.20.*'. {remedy}"
        ) from error
    return scann_ops
