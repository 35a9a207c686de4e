import numpy as np
from keras import ops
from loss_checks import FirstLastMiner, value_and_gradients

from keras_dml import losses


def test_boundaries_of_classes_and_a_shared_one():
    labels, x = np.array([0, 0, 2, 2]), np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    each, shared = losses.MarginLoss(3, miner=FirstLastMiner()), losses.MarginLoss(miner=FirstLastMiner())
    value, gradient, (by_class,), _ = value_and_gradients(each, labels, x)
    shared_value, shared_gradient, (by_shared,), _ = value_and_gradients(shared, labels, x)
    assert by_class.shape == (3,)
    assert by_shared.shape == (1,)
    assert by_class[1] == 0  # no sample of class 1
    np.testing.assert_allclose(by_class.sum(), by_shared[0], rtol=1e-5)
    np.testing.assert_allclose(value, shared_value, rtol=1e-6)
    np.testing.assert_allclose(gradient, shared_gradient, rtol=1e-6)
    assert each.loss_learning_rate == 5e-4
    np.testing.assert_array_equal(each.boundaries, np.full(3, 1.2, "float32"))


def test_divides_by_the_active_triplets():
    # Two anchors on top of their positives and opposite their negatives: with beta 1.2 no triplet of theirs is active.
    x = np.array([[1, 0], [1, 0], [-1, 0], [-1, 0], [0.0, 1]], "float32")
    labels = np.array([0, 0, 1, 1, 1])
    loss = losses.MarginLoss(2, miner=FirstLastMiner())
    # The last one: positive (-1, 0) at sqrt(2), negative (1, 0) at sqrt(2). The negative of the first two is the last,
    # at sqrt(2) as well: 1.2 - 1.414 + 0.2 < 0. The third and fourth find each other, and (1, 0) at 2.
    value = float(loss(labels, x))
    np.testing.assert_allclose(value, 2**0.5 - 1.2 + 0.2, rtol=1e-5)
    assert ops.is_tensor(loss(labels, x))
