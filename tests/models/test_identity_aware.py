"""`MetricLearner(identity_aware=True)`: an embedding is never compared with those produced from it."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dml as dml
from keras_dml import losses

COPIES = {"scale_range": (1.0, 1.0), "shift_scale": 0.0, "detach": False, "num_produced": 3}
CLASSES, SIZE = 4, 12


def encoder():
    images = keras.Input((6,))
    return keras.Model(images, keras.layers.UnitNormalization()(keras.layers.Dense(5)(images)))


def data():
    return np.random.default_rng(0).normal(size=(SIZE, 6)).astype(np.float32), np.arange(SIZE) % CLASSES


def step(loss, **das):
    """The loss of a training step, and how it changes the encoder's kernel at rate 1."""
    keras.utils.set_random_seed(1)
    augmentation = dml.layers.DASAugmentation(CLASSES, top_k=2, seed=2, **das) if das else None
    model = dml.MetricLearner(encoder(), augmentation=augmentation, identity_aware=bool(das))
    model.compile(keras.optimizers.SGD(1.0), loss=loss)
    before = ops.convert_to_numpy(model.encoder.trainable_variables[0])
    value = model.train_on_batch(*data(), return_dict=True)["loss"]
    return float(value), ops.convert_to_numpy(model.encoder.trainable_variables[0]) - before


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        (losses.MultiSimilarityLoss, {"positive_weight": 4.0, "negative_weight": 4.0}),
        (losses.SupConLoss, {"positive_weight": 4.0, "negative_weight": 4.0}),
    ],
)
def test_attached_copies_are_a_weight(loss, weights):
    """T = 3 plain copies of every embedding do what a weight of 4 on both sums does, in value and gradient."""
    copied, weighted, plain = step(loss(), **COPIES), step(loss(**weights)), step(loss())
    assert copied[0] == pytest.approx(weighted[0], rel=1e-5)
    np.testing.assert_allclose(copied[1], weighted[1], rtol=1e-4, atol=1e-6)
    assert abs(copied[0] - plain[0]) > 1e-2


def test_the_pairs_of_a_loss():
    """A row of the union is compared with all rows but those of the image it stems from."""
    seen = {}

    @keras.saving.register_keras_serializable("test_identity_aware")
    class Watching(losses.MultiSimilarityLoss):
        def compute_loss(self, batch):
            if batch.training:
                seen["positives"] = ops.convert_to_numpy(batch.positives)
            return super().compute_loss(batch)

    model = dml.MetricLearner(
        encoder(), augmentation=dml.layers.DASAugmentation(CLASSES, top_k=2, num_produced=2), identity_aware=True
    )
    model.compile("sgd", loss=Watching(), run_eagerly=True, jit_compile=False)
    images, labels = data()
    model.compute_loss(images, labels, model(images))
    images_of, labels_of = np.tile(np.arange(SIZE), 3), np.tile(labels, 3)
    same = labels_of[:, None] == labels_of[None, :]
    np.testing.assert_array_equal(seen["positives"], same & (images_of[:, None] != images_of[None, :]))


def test_a_memory_keeps_images_apart():
    """Copies of an image that are in the memory of the same step are not its positives either."""
    memory = losses.CrossBatchMemory(losses.MultiSimilarityLoss(), memory_size=4 * SIZE)
    copied = step(memory, **COPIES)
    direct = step(losses.MultiSimilarityLoss(), **COPIES)
    assert copied[0] == pytest.approx(direct[0], rel=1e-5)


def test_saved_with_the_model():
    model = dml.MetricLearner(encoder(), dml.layers.DASAugmentation(CLASSES), identity_aware=True)
    assert dml.MetricLearner.from_config(model.get_config()).identity_aware


def test_refused():
    with pytest.raises(ValueError, match="no `augmentation` to produce any"):
        dml.MetricLearner(encoder(), identity_aware=True)
    model = dml.MetricLearner(encoder(), dml.layers.DASAugmentation(CLASSES), identity_aware=True)
    with pytest.raises(ValueError, match="cannot leave out pairs by their ids"):
        model.compile("sgd", loss=lambda labels, embeddings: ops.sum(embeddings))
