"""One check that every layer goes through: config, weights, symbolic and eager calls, precision, training, saving."""

import inspect
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

# Policy and jit_compile. Compiling takes seconds, so each half precision type goes through one of the two.
TRAININGS = (("float32", False), ("float32", True), ("mixed_float16", True), ("mixed_bfloat16", False))


def check_layer(
    layer_class: type[keras.layers.Layer],
    arguments: dict[str, Any],
    inputs: Sequence[np.ndarray],
    weights: dict[str, tuple[tuple[int, ...], str]],
    trainable: int,
    output_shapes: Sequence[tuple[int, ...]],
    output_dtypes: Sequence[str],
    folder: pathlib.Path,
    call: Callable[[Any, Sequence[Any]], Any] = lambda layer, inputs: layer(*inputs),
) -> None:
    """Runs the shared check.

    Args:
        layer_class: the class; built as `layer_class(**arguments)`.
        arguments: constructor arguments, none at its default, so that a forgotten one shows.
        inputs: example batch, one array per input, the first of them floats.
        weights: `{name: (shape, dtype)}` of all weights after building, seeds left out.
        trainable: how many of them are trainable.
        output_shapes: of the outputs for `inputs`, in order.
        output_dtypes: of the outputs under the float32 policy, in order.
        folder: an empty folder to save in.
        call: how to call the layer on a sequence of inputs.
    """
    _check_config(layer_class, arguments)
    _check_calls(layer_class, arguments, inputs, weights, trainable, output_shapes, output_dtypes, call)
    for policy, jit in TRAININGS:
        _check_training(layer_class, arguments, inputs, weights, policy, jit, call)
    _check_saving(layer_class, arguments, inputs, folder, call)


def _check_config(layer_class: type[keras.layers.Layer], arguments: dict[str, Any]) -> None:
    names = [
        p.name for p in inspect.signature(layer_class.__init__).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD
    ]
    names.remove("self")
    assert set(names) == set(arguments), "give every constructor argument"
    layer = layer_class(**arguments, name="checked")
    record = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    copy = keras.saving.deserialize_keras_object(record)
    assert type(copy) is layer_class
    assert copy.get_config() == layer.get_config()
    assert copy.name == "checked"
    for name in names:
        default = inspect.signature(layer_class.__init__).parameters[name].default
        assert arguments[name] != default, f"{name} is at its default: a forgotten one would not show"
        assert getattr(layer, name) == getattr(copy, name) == arguments[name], name


def _check_calls(
    layer_class: type[keras.layers.Layer],
    arguments: dict[str, Any],
    inputs: Sequence[np.ndarray],
    weights: dict[str, tuple[tuple[int, ...], str]],
    trainable: int,
    output_shapes: Sequence[tuple[int, ...]],
    output_dtypes: Sequence[str],
    call: Callable[[Any, Sequence[Any]], Any],
) -> None:
    layer = layer_class(**arguments)
    symbolic = _listed(call(layer, [keras.KerasTensor(x.shape, x.dtype.name) for x in inputs]))
    assert [tuple(x.shape) for x in symbolic] == list(output_shapes)
    assert [x.dtype for x in symbolic] == list(output_dtypes)
    unknown = _listed(
        call(layer_class(**arguments), [keras.KerasTensor((None, *x.shape[1:]), x.dtype.name) for x in inputs])
    )
    assert [tuple(x.shape) for x in unknown] == [(None, *shape[1:]) for shape in output_shapes]

    eager = _listed(call(layer, [keras.ops.convert_to_tensor(x) for x in inputs]))
    assert [tuple(x.shape) for x in eager] == list(output_shapes)
    assert [keras.backend.standardize_dtype(x.dtype) for x in eager] == list(output_dtypes)
    assert all(np.isfinite(keras.ops.convert_to_numpy(x)).all() for x in eager)
    assert _weights(layer) == weights
    assert len(layer.trainable_weights) == trainable


def _check_training(
    layer_class: type[keras.layers.Layer],
    arguments: dict[str, Any],
    inputs: Sequence[np.ndarray],
    weights: dict[str, tuple[tuple[int, ...], str]],
    policy: str,
    jit: bool,
    call: Callable[[Any, Sequence[Any]], Any],
) -> None:
    """One `fit` step under a precision policy, the layer behind a trainable one."""
    keras.config.set_dtype_policy(policy)
    try:
        model, layer = _model(layer_class, arguments, inputs, call)
        model.compile(keras.optimizers.SGD(0.1), loss=_mean_square, jit_compile=jit)
        before = [w.numpy() for w in model.trainable_weights]
        history = model.fit(list(inputs), np.zeros(len(inputs[0])), batch_size=len(inputs[0]), verbose=0)
        assert np.isfinite(history.history["loss"]).all(), (policy, jit)
        assert any((old != new.numpy()).any() for old, new in zip(before, model.trainable_weights, strict=True))
        assert _weights(layer) == weights, f"weights must keep their types under {policy}"
    finally:
        keras.config.set_dtype_policy("float32")


def _check_saving(
    layer_class: type[keras.layers.Layer],
    arguments: dict[str, Any],
    inputs: Sequence[np.ndarray],
    folder: pathlib.Path,
    call: Callable[[Any, Sequence[Any]], Any],
) -> None:
    """A saved and loaded model goes on exactly as the first one does, state and random draws included."""
    model, layer = _model(layer_class, arguments, inputs, call)
    for _ in range(2):
        model(list(inputs), training=True)
    path = folder / "model.keras"
    model.save(path)
    copy = keras.saving.load_model(path)
    twin = copy.get_layer(layer.name)
    assert twin is not layer
    for mine, other in zip(layer.weights, twin.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy(), err_msg=mine.path)
    for _ in range(2):
        first, second = model(list(inputs), training=True), copy(list(inputs), training=True)
        np.testing.assert_array_equal(first, second)


def _model(
    layer_class: type[keras.layers.Layer],
    arguments: dict[str, Any],
    inputs: Sequence[np.ndarray],
    call: Callable[[Any, Sequence[Any]], Any],
) -> tuple[keras.Model, keras.layers.Layer]:
    layer = layer_class(**arguments, name="checked")
    symbols = [keras.Input(x.shape[1:], dtype=x.dtype.name) for x in inputs]
    encoded = [keras.layers.Dense(inputs[0].shape[-1])(symbols[0]), *symbols[1:]]
    return keras.Model(symbols, _listed(call(layer, encoded))[0]), layer


def _mean_square(target: Any, output: Any) -> Any:
    return keras.ops.mean(keras.ops.square(keras.ops.cast(output, "float32") - 0.5))


def _weights(layer: keras.layers.Layer) -> dict[str, tuple[tuple[int, ...], str]]:
    return {w.path.split("/", 1)[-1]: (tuple(w.shape), w.dtype) for w in layer.weights}


def _listed(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]
