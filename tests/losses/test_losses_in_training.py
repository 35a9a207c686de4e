"""Every loss as `compile(loss=...)`, with DAS: trained, saved, restored, trained on."""

import functools

import keras
import numpy as np
import pytest
from loss_checks import make_loss

from keras_dml import layers, losses
from keras_dml.models.metric_learner import MetricLearner

CLASSES = 6
MAKE = {
    **{
        name: functools.partial(make_loss, name, CLASSES)
        for name in losses.names()
        if not losses.loss_class(name).needs_pair_scorer
    },
    "triplet, semi-hard": lambda: losses.TripletLoss(miner="semi_hard"),
    "triplet, soft-hard": lambda: losses.TripletLoss(miner="soft_hard"),
    "triplet, random": lambda: losses.TripletLoss(miner="random"),
    "margin": lambda: losses.MarginLoss(CLASSES),
    "spherical_embedding_constraint": lambda: losses.SphericalEmbeddingConstraint("multi_similarity"),
}


def data():
    generator = np.random.default_rng(0)
    labels = np.tile(np.repeat(np.arange(CLASSES), 2), 4).astype("int32")
    centers = generator.normal(size=(CLASSES, 5))
    return (centers[labels] + 0.5 * generator.normal(size=(len(labels), 5))).astype("float32"), labels


def make_model(loss, das=True, **arguments):
    unit = loss.normalized_inputs is not False
    encoder = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(4)])
    if unit:
        encoder.add(keras.layers.UnitNormalization())
    augmentation = layers.DASAugmentation(CLASSES, num_produced=2, top_k=2, normalize=unit) if das else None
    model = MetricLearner(encoder, augmentation=augmentation)
    model.compile(keras.optimizers.Adam(0.01), loss=loss, **arguments)
    return model


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", [*MAKE, "double_header_hinge"])
def test_trained_in_float64(name):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        if name == "double_header_hinge":
            encoder = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(4)])
            model = MetricLearner(encoder, pair_scorer=layers.PDDMUnit())
            model.compile("sgd", loss=losses.DoubleHeaderHinge(dtype="float64"))
        else:
            model = make_model(MAKE[name]())
        x, labels = data()
        history = model.fit(x.astype("float64"), labels, batch_size=12, verbose=0).history
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert model.encoder.weights[0].dtype == "float64"
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("name", MAKE)
def test_trained_with_das_saved_and_restored(name, tmp_path):
    x, labels = data()
    model = make_model(MAKE[name]())
    history = model.fit(x, labels, batch_size=12, epochs=2, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert min(history["loss"]) > 0
    for variable in model.embedding_loss.trainable_variables:
        assert variable.dtype == "float32"
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert type(restored.embedding_loss) is type(model.embedding_loss)
    # Not only proxies and boundaries but memories, running means and the state of the miners.
    for found, expected in zip(restored.embedding_loss.variables, model.embedding_loss.variables, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert np.isfinite(restored.train_on_batch(x[:12], labels[:12], return_dict=True)["loss"])


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("margin", "mixed_float16"),
        ("cross_batch_memory", "mixed_bfloat16"),
        ("proxy_anchor", "mixed_float16"),
        ("soft_triple", "mixed_float16"),
    ],
)
def test_compiled_in_mixed_precision(name, policy):
    keras.config.set_dtype_policy(policy)
    x, labels = data()
    model = make_model(MAKE[name](), jit_compile=True)
    before = [np.array(variable) for variable in model.embedding_loss.trainable_variables]
    assert before
    history = model.fit(x, labels, batch_size=12, epochs=2, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    for variable, then in zip(model.embedding_loss.trainable_variables, before, strict=True):
        assert variable.dtype == "float32"
        assert np.any(np.array(variable) != then)


@pytest.mark.parametrize(
    "name",
    [
        *("triplet, random", "margin", "proxy_anchor", "cross_batch_memory", "sup_con", "cosface", "soft_triple"),
        *("circle", "smooth_ap", "recall_at_k_surrogate"),
    ],
)
def test_without_das_the_loss_falls(name):
    x, labels = data()
    model = make_model(MAKE[name](), das=False, loss_optimizer=keras.optimizers.Adam(0.01))
    history = model.fit(x, labels, batch_size=12, epochs=15, shuffle=False, verbose=0).history["loss"]
    assert np.mean(history[-3:]) < np.mean(history[:3])


def test_the_suggested_rate_is_used():
    assert float(make_model(losses.MarginLoss(CLASSES)).loss_optimizer.learning_rate) == pytest.approx(5e-4)
    given = make_model(losses.MarginLoss(CLASSES, loss_learning_rate=0.1))
    assert float(given.loss_optimizer.learning_rate) == pytest.approx(0.1)
