import backends
import numpy as np
import pytest

from keras_dml import losses


@pytest.mark.parametrize("jit", [False, True])
def test_running_mean_and_penalty(jit):
    loss = losses.SphericalEmbeddingConstraint(losses.MultiSimilarityLoss(), weight=0.5, momentum=0.9)
    loss.build((None,), (None, 4))
    inner = losses.MultiSimilarityLoss()
    generator = np.random.default_rng(0)
    labels = np.array([0, 0, 1, 1, 2, 2])

    def step(x):
        value, (gradient,) = backends.value_and_gradients(lambda x: loss(labels, x, training=True), [x], loss)
        return value, gradient

    step = backends.compiled(step, jit, loss)

    mean = None
    for _ in range(5):
        x = generator.normal(size=(6, 4)).astype("float32")
        norms = np.linalg.norm(x, axis=1)
        mean = norms.mean() if mean is None else 0.9 * mean + 0.1 * norms.mean()
        value, gradient = step(backends.tensor(x))
        np.testing.assert_allclose(loss.mean_norm, mean, rtol=1e-5)
        unit = x / norms[:, None]
        np.testing.assert_allclose(value, float(inner(labels, unit)) + 0.5 * np.mean((norms - mean) ** 2), rtol=1e-5)
        # Normalizing leaves no gradient along an embedding, so what there is comes from the penalty alone.
        np.testing.assert_allclose(np.sum(gradient * unit, axis=1), 0.5 * 2 * (norms - mean) / 6, rtol=1e-4, atol=1e-6)
    loss(labels, 7 * x, training=False)
    np.testing.assert_allclose(loss.mean_norm, mean, rtol=1e-5)


def test_keys_are_normalized_too():
    loss, inner = losses.SphericalEmbeddingConstraint("multi_similarity", weight=0.0), losses.MultiSimilarityLoss()
    x, labels = np.random.default_rng(0).normal(size=(6, 4)).astype("float32"), np.array([0, 0, 1, 1, 2, 2])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = loss(labels[:3], x[:3], keys=5 * x[3:], key_labels=labels[3:])
    expected = inner(labels[:3], unit[:3], keys=unit[3:], key_labels=labels[3:])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_parameters_of_the_inner_loss_are_its_own():
    loss = losses.SphericalEmbeddingConstraint(losses.MarginLoss(5))
    loss.build((None,), (None, 4))
    assert loss.loss_learning_rate == 5e-4
    assert [v.name for v in loss.trainable_variables] == ["boundaries"]
    assert losses.SphericalEmbeddingConstraint(losses.ProxyAnchorLoss(5)).loss_learning_rate == 1e-2


def test_losses_of_unnormalized_embeddings_are_refused():
    with pytest.raises(ValueError, match="NPairLoss needs unnormalized"):
        losses.SphericalEmbeddingConstraint("n_pair")
    with pytest.raises(ValueError, match="`momentum`"):
        losses.SphericalEmbeddingConstraint("triplet", momentum=1.0)
