"""What every test runs under."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import backends
import keras
import pytest

if backends.TENSORFLOW:
    import tensorflow as tf

    # The recipes' default, before the first test fixes it for the process.
    tf.config.threading.set_intra_op_parallelism_threads(2)
else:
    import jax


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What tests cache of their little data sets stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_DML_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _fresh_keras_state():
    """Same seed for every test, and no dtype policy left over from the one before."""
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(1234)
    yield
    keras.config.set_dtype_policy(policy)


@pytest.fixture
def double_precision():
    """64-bit numbers, which JAX has only where they are asked for."""
    if backends.TENSORFLOW:
        yield
        return
    with jax.enable_x64(True):
        yield
