"""What differs between Keras's backends, for tests that run under each."""

import keras
import numpy as np
import pytest

TENSORFLOW = keras.backend.backend() == "tensorflow"
REASON = "needs Keras's TensorFlow backend"
needs_tensorflow = pytest.mark.skipif(not TENSORFLOW, reason=REASON)


def tensorflow_or_skip():
    """TensorFlow; skips the test module that calls it at its top under another backend."""
    if not TENSORFLOW:
        pytest.skip(REASON, allow_module_level=True)
    import tensorflow

    return tensorflow


def uniform(count, seed, low=0.0, high=1.0):
    """TensorFlow's random numbers, under other backends from the package's own generator, which a test compares."""
    if TENSORFLOW:
        import tensorflow as tf

        return tf.random.stateless_uniform([count], seed, low, high).numpy()
    from keras_dml.data.images.philox import stateless_uniform

    return stateless_uniform(count, np.asarray(seed)) * np.float32(high - low) + np.float32(low)
