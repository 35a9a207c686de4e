"""What holds for every loss: value, gradient and usage against loop references, and the hard cases."""

import json

import backends
import keras
import numpy as np
import pytest
from backends import tensor, tensorflow_only
from keras import ops
from loss_cases import CASES, PAIR_CASES, shared_loss
from loss_checks import Pairs, labels_for, points, reference_gradient, value_and_gradients, weights_of

from keras_dml import losses

if backends.TENSORFLOW:
    import tensorflow as tf

TOLERANCE = {"rtol": 2e-4, "atol": 2e-5}


def assert_equals_reference(name, loss, x, labels, result, **keys):
    case = CASES[name]
    weights = weights_of(loss)

    def by_x(values):
        return case.reference(Pairs(values.tolist(), labels.tolist(), **keys), weights)

    pairs = Pairs(x.tolist(), labels.tolist(), **keys)
    value, gradient, weight_gradients, usage = result
    np.testing.assert_allclose(value, case.reference(pairs, weights), **TOLERANCE)
    assert value > 0
    if "keys" not in keys:
        np.testing.assert_allclose(gradient, reference_gradient(by_x, x), **TOLERANCE)
    for variable, found in zip(loss.trainable_variables, weight_gradients, strict=True):

        def by_weight(values, name=variable.name):
            return case.reference(Pairs(x.tolist(), labels.tolist(), **keys), {**weights, name: values})

        np.testing.assert_allclose(found, reference_gradient(by_weight, weights[variable.name]), **TOLERANCE)
    if case.proxies:
        assert usage.size == 0
    else:
        np.testing.assert_array_equal(usage, pairs.usage)


@pytest.mark.parametrize("jit", [None, False, True])
@pytest.mark.parametrize("name", CASES)
def test_value_gradient_and_usage(name, jit):
    case = CASES[name]
    loss, x, labels = shared_loss(name), points(case), labels_for(case)
    assert_equals_reference(name, loss, x, labels, value_and_gradients(loss, labels, x, jit=jit))


@pytest.mark.parametrize("name", PAIR_CASES)
def test_keys_with_ids_and_empty_slots(name):
    case = CASES[name]
    loss, x, labels = case.make(), points(case), labels_for(case)
    keys, key_labels = points(case, seed=5, count=9), np.array([3, 2, 1, 0, 0, 1, 2, 1, 0])
    # The first query is the fourth key; the last three slots are empty and hold rubbish.
    ids, key_ids = np.array([13, 1, 2, 3, 4, 5, 6, 7]), np.array([10, 11, 12, 13, 14, 15, -1, -1, -1])
    if case.one_positive:
        key_ids = np.array([10, 11, 12, 13, -1, -1, -1, -1, -1])
    garbage = np.where(key_ids[:, None] < 0, 1000.0, keys)
    arguments = {"keys": garbage.astype("float32"), "key_labels": key_labels, "ids": ids, "key_ids": key_ids}
    result = value_and_gradients(loss, labels, x, **arguments)
    plain = {"keys": garbage.tolist(), "key_labels": key_labels, "ids": ids, "key_ids": key_ids}
    assert_equals_reference(name, loss, x, labels, result, **plain)
    # Gradient by the queries, with the keys held fixed.
    weights = weights_of(loss)
    expected = reference_gradient(lambda v: case.reference(Pairs(v.tolist(), labels.tolist(), **plain), weights), x)
    np.testing.assert_allclose(result[1], expected, **TOLERANCE)
    if not case.one_positive:
        assert result[3][6:].sum() == 0


@pytest.mark.parametrize("name", PAIR_CASES)
def test_own_keys_equal_the_same_keys_with_ids(name):
    case = CASES[name]
    loss, x, labels = case.make(), points(case).astype("float32"), labels_for(case)
    ids = np.arange(len(x)) + 100
    own = value_and_gradients(loss, labels, x)
    both = value_and_gradients(loss, labels, x, keys=x, key_labels=labels, ids=ids, key_ids=ids)
    np.testing.assert_allclose(own[0], both[0], rtol=1e-6)
    np.testing.assert_array_equal(own[3], both[3])


@pytest.mark.parametrize("name", PAIR_CASES)
def test_without_valid_pair_value_and_gradient_are_zero(name):
    case = CASES[name]
    for labels in (np.arange(8), np.full(8, 2), np.array([3])):
        if not shared_loss(name).needs_negatives and len(set(labels)) == 1 and len(labels) > 1:
            continue  # it learns from one class
        if shared_loss(name).num_classes is not None:
            labels = labels % 4 if len(set(labels)) == 1 else np.arange(4)
        jits = (None, False, True) if len(labels) == 8 else (None,)
        for jit in jits:
            x = points(case, count=len(labels))
            value, gradient, weight_gradients, usage = value_and_gradients(shared_loss(name), labels, x, jit=jit)
            if isinstance(shared_loss(name), losses.WrapperLoss):
                assert 0 <= value <= 0.02  # the penalty stays
                assert np.all(np.isfinite(gradient))
            else:
                assert value == 0
                np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
            assert usage.sum() == 0
            for found in weight_gradients:
                np.testing.assert_array_equal(found, np.zeros_like(found))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("jit", [False, True])
def test_extreme_embeddings_have_finite_value_and_gradient(name, jit):
    case, labels = CASES[name], labels_for(CASES[name])
    x = points(case)
    duplicates, zeros = np.repeat(x[:1], 8, axis=0), x.copy()
    zeros[:5] = 0.0
    for kind, extreme in {
        "duplicates": duplicates,
        "zeros": zeros,
        "short": x * 1e-15,
        "long": x * 1e15,
        "both": x * np.array([1e-15, 1e15] * 4)[:, None],
    }.items():
        value, gradient, weight_gradients, _ = value_and_gradients(shared_loss(name), labels, extreme, jit=jit)
        assert np.isfinite(value), kind
        assert np.all(np.isfinite(gradient)), kind
        assert all(np.all(np.isfinite(found)) for found in weight_gradients), kind


@pytest.mark.parametrize("name", CASES)
def test_label_types(name):
    case = CASES[name]
    loss, x, labels = case.make(), points(case).astype("float32"), labels_for(case)
    expected = float(loss(labels, x))
    for dtype in ("int8", "uint8", "int16", "int32", "int64", "uint32"):
        assert float(loss(labels.astype(dtype), x)) == expected
    assert float(loss(labels[:, None], x)) == expected
    assert float(loss(labels.tolist(), x.tolist())) == expected
    column = tensor(labels[:, None], "int64" if backends.TENSORFLOW else "int32")
    found = backends.compiled(loss, not backends.TENSORFLOW, loss)(column, x)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("double_precision")
def test_large_labels_are_told_apart():
    x = points(CASES["triplet"]).astype("float32")
    # These agree in their low 32 bits, and would be one number in float32 too.
    labels = np.array([7, 7 + 2**32, 7, 7 + 2**32] * 2)
    loss = losses.MultiSimilarityLoss()
    assert float(loss(labels, x)) == float(loss(np.array([0, 1, 0, 1] * 2), x))


@pytest.mark.skipif(backends.TENSORFLOW, reason="JAX only: without 64-bit numbers, unless they are asked for")
def test_large_labels_are_refused_rather_than_cut():
    x = points(CASES["triplet"]).astype("float32")
    labels, loss = np.array([7, 7 + 2**32] * 4), losses.MultiSimilarityLoss()
    for call in (loss, lambda labels, x: losses.EmbeddingBatch.create(labels.tolist(), x)):
        with pytest.raises(ValueError, match=r"`labels` must fit into 32 bits.*4294967303 in row 1 \(4 such"):
            call(labels, x)
    with pytest.raises(ValueError, match="`key_labels` must fit into 32 bits"):
        loss(labels % 2, x, keys=x, key_labels=labels)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(name, dtype):
    case = CASES[name]
    x, labels = ops.cast(points(case), dtype), labels_for(case)
    keras.config.set_dtype_policy(f"mixed_{dtype}")
    try:
        loss = case.make()
        value, gradient, _, _ = value_and_gradients(loss, labels, x, dtype=dtype)
    finally:
        keras.config.set_dtype_policy("float32")
    assert value.dtype == "float32"
    assert gradient.dtype.name == dtype
    assert all(variable.dtype == "float32" for variable in loss.trainable_variables)
    expected, full_gradient, _, _ = value_and_gradients(
        case.make(), labels, ops.convert_to_numpy(ops.cast(x, "float32"))
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient.astype("float32"), full_gradient, rtol=1e-2, atol=1e-3)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float64_embeddings(name, dtype):
    case = CASES[name]
    plain = case.make()
    loss = type(plain).from_config({**plain.get_config(), "dtype": dtype})
    x, labels = points(case).astype("float64"), labels_for(case)
    expected, full_gradient, _, _ = value_and_gradients(plain, labels, x.astype("float32"))
    loss.build((None,), (None, x.shape[1]))
    for variable, value in zip(loss.trainable_variables, plain.trainable_variables, strict=True):
        variable.assign(value)
    value, gradient, _, _ = value_and_gradients(loss, labels, x, dtype="float64", training=True)
    assert gradient.dtype == "float64"
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(gradient, full_gradient, rtol=1e-3, atol=1e-5)


@tensorflow_only("batches of unknown size")
@pytest.mark.parametrize("name", CASES)
def test_unknown_batch_size_in_a_graph(name):
    case = CASES[name]
    loss, x, labels = case.make(), points(case).astype("float32"), labels_for(case)
    loss.build((None,), (None, 2))
    signature = [tf.TensorSpec((None,), "int64"), tf.TensorSpec((None, 2), "float32")]
    assert np.isfinite(tf.function(loss, input_signature=signature)(labels, x).numpy())


@pytest.mark.parametrize("name", CASES)
def test_config_and_weights_survive_a_round_trip(name, tmp_path):
    case = CASES[name]
    loss, x, labels = case.make(), points(case).astype("float32"), labels_for(case)
    loss(labels, x, training=True)
    for variable in loss.trainable_variables:
        variable.assign(variable + 0.1)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    restored = losses.get(config)
    assert type(restored) is type(loss)
    assert keras.saving.serialize_keras_object(restored)["config"] == config["config"]
    # Built by its configuration, so that weights can be loaded before the first batch.
    assert [v.shape for v in restored.variables] == [v.shape for v in loss.variables]

    def model(held):
        encoder = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(2)])
        encoder.held = held
        return encoder

    model(loss).save_weights(tmp_path / "a.weights.h5")
    model(restored).load_weights(tmp_path / "a.weights.h5")
    assert float(restored(labels, x)) == float(loss(labels, x))


@pytest.mark.parametrize("name", CASES)
def test_configuration_has_every_argument(name):
    loss = CASES[name].make()
    config = loss.get_config()
    for argument in set(type(loss).__init__.__annotations__) - {"kwargs", "return"}:
        assert argument in config
        assert hasattr(loss, argument)


def test_wrong_shapes_and_types_are_refused():
    loss, x = losses.MultiSimilarityLoss(), np.eye(4, dtype="float32")
    with pytest.raises(ValueError, match="must be integers"):
        loss(np.zeros(4, "float32"), x)
    with pytest.raises(ValueError, match="not one-hot"):
        loss(np.eye(4, dtype="int32"), x)
    with pytest.raises(ValueError, match="3 and 4 rows"):
        loss(np.zeros(3, "int32"), x)
    with pytest.raises(ValueError, match=r"must have shape \(n, d\)"):
        loss(np.zeros(4, "int32"), x[0])
    with pytest.raises(ValueError, match="`keys` need `key_labels`"):
        loss(np.zeros(4, "int32"), x, keys=x)
    with pytest.raises(ValueError, match="go together"):
        loss(np.zeros(4, "int32"), x, keys=x, key_labels=np.zeros(4, "int32"), ids=np.arange(4))
    with pytest.raises(ValueError, match="same width"):
        loss(np.zeros(4, "int32"), x, keys=x[:, :3], key_labels=np.zeros(4, "int32"))
    with pytest.raises(ValueError, match="float32 or float64"):
        losses.TripletLoss(dtype="float16")
    with pytest.raises(ValueError, match="width of the embeddings"):
        losses.ProxyAnchorLoss(3).build((None,), (None, None))


def test_ids_without_keys_exclude_the_same_image_drawn_twice():
    x = points(CASES["triplet"], count=4).astype("float32")
    loss, labels = losses.MultiSimilarityLoss(), np.array([0, 0, 1, 1])
    _, _, _, usage = value_and_gradients(loss, labels, x, ids=np.array([5, 5, 6, 6]))
    assert usage.sum() == 0


@pytest.mark.parametrize("name", PAIR_CASES)
def test_check_labels(name):
    loss = CASES[name].make()
    loss.check_labels(np.array([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="at least two samples of a class"):
        loss.check_labels(tensor([0, 1, 2, 3]))
    if loss.needs_negatives:
        with pytest.raises(ValueError, match="at least two classes"):
            loss.check_labels(np.array([[1], [1]]))


@pytest.mark.parametrize("name", [name for name in CASES if shared_loss(name).num_classes])
def test_labels_without_a_class_never_train(name):
    case = CASES[name]
    loss, x, labels = case.make(), points(case).astype("float32"), LABELS_OUTSIDE
    for call in (lambda: loss(labels, x), lambda: loss.check_labels(labels)):
        with pytest.raises(ValueError, match="labels from 0 to 4"):
            call()
    with pytest.raises(ValueError, match="labels from -1"):
        loss(labels - 1, x)
    # Where there is no graph, a call that is not compiled raises as above.
    for jit in (False, True) if backends.TENSORFLOW else (True,):
        value, gradient, weight_gradients, _ = value_and_gradients(shared_loss(name), labels, x, jit=jit)
        assert np.isnan(value)
        assert not np.any(gradient)
        assert not any(np.any(found) for found in weight_gradients)


LABELS_OUTSIDE = np.array([0, 1, 4, 0, 1, 4, 0, 1])
