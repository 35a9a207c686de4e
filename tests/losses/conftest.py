"""Nothing here outlives a test in Keras's global state: clearing it after each would take most of the time."""

import keras
import pytest


@pytest.fixture(autouse=True)
def _fresh_keras_state():
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(1234)
    yield
    keras.config.set_dtype_policy(policy)
