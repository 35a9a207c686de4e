"""The circle loss beside Keras's."""

import keras
import numpy as np
import pytest
from loss_cases import CASES
from loss_checks import points

from keras_dml import losses

LABELS = np.array([0, 0, 1, 1, 1, 2, 2, 3])


def unit_points():
    x = points(CASES["circle"])
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("float32")


def test_the_value_is_that_of_keras():
    """Also where one has no positive: the last."""
    theirs = losses.get(keras.losses.Circle(gamma=10, margin=0.25))
    ours = losses.CircleLoss(gamma=10, margin=0.25)
    assert float(ours(LABELS, unit_points())) == pytest.approx(float(theirs(LABELS, unit_points())), rel=1e-5)


def test_large_labels_are_told_apart_where_keras_confuses_them():
    labels = np.array([2**24, 2**24 + 1] * 4, "int32")
    assert float(losses.get(keras.losses.Circle())(labels, unit_points())) == 0
    assert float(losses.CircleLoss()(labels, unit_points())) > 0
