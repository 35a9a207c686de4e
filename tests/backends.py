"""The few things that tests need of a backend, so that one test runs on TensorFlow and on JAX."""

import keras
import pytest
from keras import ops

TENSORFLOW = keras.backend.backend() == "tensorflow"
if TENSORFLOW:
    import tensorflow as tf
else:
    import jax

MODES = ("eager", "graph", "jit") if TENSORFLOW else ("eager", "jit")


def tensorflow_only(why):
    """Marks a test of what TensorFlow alone has."""
    return pytest.mark.skipif(not TENSORFLOW, reason=f"TensorFlow only: {why}")


def tensor(values, dtype=None):
    return ops.convert_to_tensor(values, dtype)


def compiled(function, jit, *layers):
    """`function` compiled by XLA, or (`jit` False) in a graph; JAX has no graphs, and calls it eagerly then.

    Args:
        function: of tensors, to tensors.
        jit: whether XLA compiles it.
        *layers: what it calls. JAX hands the values of their variables in and out, as a Keras training step does.
    """
    if TENSORFLOW:
        return tf.function(function, jit_compile=jit, autograph=False)
    if not jit:
        return function
    variables = []

    def pure(values, inputs):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*inputs), [variable.value for variable in variables]

    step = jax.jit(pure)

    def run(*inputs):
        if not variables:
            if not all(layer.built for layer in layers):
                # A symbolic call, which builds them: a compiled one must not.
                function(*(keras.KerasTensor(x.shape, keras.backend.standardize_dtype(x.dtype)) for x in inputs))
            variables.extend(_variables(layers))
        outputs, values = step([variable.value for variable in variables], inputs)
        _assign(variables, values)
        return outputs

    return run


def in_mode(function, mode, *layers):
    """`function` as it is, in a graph or compiled by XLA: one of `MODES`."""
    return function if mode == "eager" else compiled(function, mode == "jit", *layers)


def value_and_gradients(function, inputs, *layers, unconnected=False):
    """What `function(*inputs)` returns, and the gradient of its (first) result, a scalar.

    Args:
        function: of tensors, to a scalar or to a tuple that begins with one.
        inputs: the tensors.
        *layers: what it calls.
        unconnected: whether the result may depend on some of them in no way. The gradient is then zero; it is on JAX
            anyhow, where this is not told apart.

    Returns:
        What the function returned, and a list of gradients: by each of the inputs, then by each trainable variable of
        the layers.
    """
    trainable = [variable for layer in layers for variable in layer.trainable_variables]
    if TENSORFLOW:
        inputs = [tf.convert_to_tensor(x) for x in inputs]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(*inputs)
        kind = tf.UnconnectedGradients.ZERO if unconnected else tf.UnconnectedGradients.NONE
        sources = [*inputs, *(variable.value for variable in trainable)]
        found = tape.gradient(_first(outputs), sources, unconnected_gradients=kind)
        return outputs, [tf.convert_to_tensor(gradient) for gradient in found]

    state = [variable for variable in _variables(layers) if not any(variable is other for other in trainable)]

    def pure(inputs, weights, values):
        mapping = [*zip(trainable, weights, strict=True), *zip(state, values, strict=True)]
        with keras.StatelessScope(state_mapping=mapping):
            outputs = function(*inputs)
            return _first(outputs), (outputs, [variable.value for variable in state])

    run = jax.value_and_grad(pure, argnums=(0, 1), has_aux=True)
    (_, (outputs, values)), (by_inputs, by_weights) = run(
        [tensor(x) for x in inputs],
        [variable.value for variable in trainable],
        [variable.value for variable in state],
    )
    _assign(state, values)
    return outputs, [*by_inputs, *by_weights]


def _first(outputs):
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _variables(layers):
    found = [variable for layer in layers for variable in layer.variables]
    return list({id(variable): variable for variable in found}.values())


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
