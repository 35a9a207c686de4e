"""Every loss, every miner and DAS compute on each backend what they compute on TensorFlow.

Value, gradient by embeddings and weights, counts and state over two steps, from the same inputs, weights and random
numbers; parity.py holds the cases and writes the reference. Sums are taken in another order, so floats are compared
within 2e-5 of the value plus 2e-6 of the array's greatest; whole numbers (drawn rows, counts, frequencies) are equal.

With draws of the backends' own, contrastive, margin, triplet and n-pair differ between the backends: one seed is other
numbers on each (`test_one_seed_is_other_numbers_on_jax`). They are the losses with a miner, and that this is the whole
difference is what their cases here show, in which the numbers are given.
"""

import backends
import numpy as np
import parity
import pytest

from keras_dml import losses, mining


@pytest.fixture(scope="module")
def reference():
    with np.load(parity.REFERENCE) as saved:
        return dict(saved)


@pytest.mark.parametrize("case", parity.CASES)
def test_as_on_tensorflow(case, reference):
    expected = {name.split("|")[1]: value for name, value in reference.items() if name.startswith(f"{case}|")}
    assert expected, f"{case} has no reference yet: write it with tests/losses/parity.py"
    found = parity.compute(case)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        if value.dtype.kind == "f":
            atol = 2e-6 * max(np.abs(value).max(initial=0.0), 1.0)
            np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_cases_are_worth_comparing(reference):
    for name in losses.names():
        assert np.isfinite(reference[f"{name}|value 1"])
        assert np.any(reference[f"{name}|gradient 0 1"])
    for name in mining.names():
        assert len(np.unique(reference[f"{name} miner|negative"])) > 3
    assert np.any(reference["das|union 1"][24:] != np.tile(reference["das|union 1"][:24], (3, 1)))


@pytest.mark.skipif(backends.TENSORFLOW, reason="compares another backend with TensorFlow")
def test_one_seed_is_other_numbers_on_jax(reference):
    assert not np.isclose(parity.own_draws(), reference["own_draws"]).any()
