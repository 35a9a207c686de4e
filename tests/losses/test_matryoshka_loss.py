"""Losses of prefixes: against loops, with weights of their own for each width, with DAS, in training."""

import keras
import numpy as np
import pytest
from loss_cases import proxy_anchor
from loss_checks import Pairs, reference_gradient, value_and_gradients

from keras_dml import layers, losses
from keras_dml.models import MetricLearner

WIDTHS, FACTORS = (2, 3, 5), (0.5, 1.0, 2.0)
LABELS = np.array([0, 1, 2, 0, 1, 2, 3, 3])


def points(count=8, dim=5):
    return np.random.default_rng(0).normal(size=(count, dim))


def test_one_set_of_proxies_for_each_width_against_loops():
    loss = losses.MatryoshkaLoss(losses.ProxyAnchorLoss(4, alpha=32.0, seed=1), WIDTHS, FACTORS)
    value, gradient, weight_gradients, _ = value_and_gradients(loss, LABELS, points())
    proxies = [np.asarray(loss.loss_of(width).trainable_variables[0].value, "float64") for width in WIDTHS]
    assert [found.shape for found in proxies] == [(4, width) for width in WIDTHS]

    def reference(x, replaced=None, at=None):
        total = 0.0
        for place, (width, factor) in enumerate(zip(WIDTHS, FACTORS, strict=True)):
            own = replaced if place == at else proxies[place]
            prefixes = [row[:width].tolist() for row in x]
            total += factor * proxy_anchor(Pairs(prefixes, LABELS.tolist()), {"proxies": own.tolist()})
        return total

    np.testing.assert_allclose(value, reference(points()), rtol=1e-4)
    np.testing.assert_allclose(gradient, reference_gradient(reference, points()), rtol=1e-3, atol=1e-4)
    # The loss that was given is the widest's, and tracked first.
    order = [2, 0, 1] if weight_gradients[0].shape == (4, 5) else [0, 1, 2]
    for place, found in zip(order, weight_gradients, strict=True):
        expected = reference_gradient(lambda values, at=place: reference(points(), values, at), proxies[place])
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_full_width_alone_is_the_loss_itself():
    x = points()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    one, other = (
        value_and_gradients(loss, LABELS, x)
        for loss in (losses.MatryoshkaLoss("multi_similarity", (5,)), losses.MultiSimilarityLoss())
    )
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    np.testing.assert_array_equal(one[3], other[3])
    # Of the gradient, what would change the length is gone.
    tangent = other[1] - np.sum(other[1] * x, axis=1, keepdims=True) * x
    np.testing.assert_allclose(one[1], tangent, rtol=1e-4, atol=1e-5)


def test_losses_of_unnormalized_embeddings_see_prefixes_as_they_are():
    x, labels = points(), np.array([0, 1, 2, 0, 1, 2, 3, 3])
    found = losses.MatryoshkaLoss("generalized_lifted_structure", (2, 5))(labels, x.astype("float32"))
    inner = losses.GeneralizedLiftedStructureLoss()
    expected = sum(float(inner(labels, x[:, :width].astype("float32"))) for width in (2, 5))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert losses.MatryoshkaLoss("generalized_lifted_structure", (2, 5)).normalized_inputs is False
    assert losses.MatryoshkaLoss("triplet", (2, 5)).normalized_inputs is None


def test_a_function_and_a_memory_inside_and_outside():
    x = points().astype("float32")
    loss = losses.MatryoshkaLoss(lambda labels, rows: keras.ops.sum(rows, axis=1), (1, 5))
    assert float(loss(LABELS, x)) == pytest.approx(x[:, 0].mean() + x.sum(axis=1).mean(), rel=1e-4)
    inside = losses.MatryoshkaLoss(losses.CrossBatchMemory("multi_similarity", 32), (2, 5))
    outside = losses.CrossBatchMemory(losses.MatryoshkaLoss("multi_similarity", (2, 5)), 32)
    for batch in (x, x[::-1] + 0.1):
        one, other = (loss(LABELS, batch, training=True) for loss in (inside, outside))
        assert float(one) == pytest.approx(float(other), rel=1e-5)


@pytest.mark.parametrize("das", [False, True])
@pytest.mark.parametrize("make", [lambda: "multi_similarity", lambda: losses.ProxyAnchorLoss(4, seed=0)])
def test_in_training(make, das, tmp_path):
    encoder = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(6), keras.layers.UnitNormalization()])
    augmentation = layers.DASAugmentation(4, num_produced=2, top_k=2, seed=0) if das else None
    model = MetricLearner(encoder, augmentation=augmentation)
    model.compile(keras.optimizers.Adam(0.01), loss=losses.MatryoshkaLoss(make(), (2, 6), weights=(1.0, 0.5)))
    x, labels = np.tile(points(), (4, 1)).astype("float32"), np.tile(LABELS, 4)
    history = model.fit(x, labels, batch_size=8, epochs=3, shuffle=False, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    total = np.array(history["loss_d2"]) + 0.5 * np.array(history["loss_d6"])
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    for found, expected in zip(restored.embedding_loss.variables, model.embedding_loss.variables, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert float(restored.embedding_loss(LABELS, encoder(x[:8]))) == float(model.embedding_loss(LABELS, encoder(x[:8])))


def test_batches_that_cannot_train_are_judged_as_for_the_loss_itself():
    encoder = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(6)])
    model = MetricLearner(encoder)
    model.compile("adam", loss=losses.MatryoshkaLoss("multi_similarity", (2, 6)))
    with pytest.raises(ValueError, match="no positive pair"):
        model.fit(points().astype("float32"), np.arange(8), batch_size=8, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": ()}, "`widths` must be one or more different positive integers"),
        ({"widths": (4, 4)}, r"Received: widths=\(4, 4\)"),
        ({"widths": (0, 4)}, "different positive integers"),
        ({"widths": (2.5,)}, "different positive integers"),
        ({"widths": (2, 4), "weights": (1.0,)}, "`weights` must be positive, one for each width"),
        ({"widths": (2, 4), "weights": (1.0, 0.0)}, "`weights` must be positive"),
        ({"loss": "double_header_hinge", "widths": (2,)}, "DoubleHeaderHinge scores pairs with a layer made for one"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        losses.MatryoshkaLoss(**{"loss": "multi_similarity", **arguments})


def test_a_width_beyond_the_embedding_is_refused():
    loss = losses.MatryoshkaLoss("multi_similarity", (2, 8))
    with pytest.raises(ValueError, match=r"at most the width of the embeddings, 5\. Received: widths=\(2, 8\)"):
        loss(LABELS, keras.ops.convert_to_tensor(points(), "float32"))
