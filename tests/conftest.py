"""What every test runs under."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    # The recipes' default, before the first test fixes it for the process.
    tf.config.threading.set_intra_op_parallelism_threads(2)


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
