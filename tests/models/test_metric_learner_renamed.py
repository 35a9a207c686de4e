"""Old names of `MetricLearner`, and files that the version before saved."""

import pathlib
import subprocess
import sys
import warnings

import backends
import keras
import numpy as np
import pytest

import keras_dml as dml
from keras_dml import losses, mining

SAVED = pathlib.Path(__file__).parent / "saved_by_0_1"


def encoder():
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(6), keras.layers.UnitNormalization()])


def data():
    return np.random.default_rng(0).normal(size=(12, 5)).astype("float32"), (np.arange(12) % 4).astype("int32")


def test_similarity_is_the_pair_scorer(tmp_path):
    unit = dml.layers.PDDMUnit()
    with pytest.warns(DeprecationWarning, match="`similarity` of MetricLearner is now called `pair_scorer`") as found:
        model = dml.MetricLearner(encoder(), similarity=unit)
    assert found[0].filename == __file__
    assert model.pair_scorer is unit
    with pytest.warns(DeprecationWarning, match="`pair_scorer`"):
        assert model.similarity is unit
    model.compile("sgd", loss="double_header_hinge")
    with warnings.catch_warnings(record=True) as found:
        # Keras looks at every attribute of what it saves, which is nobody's use of the old name.
        warnings.simplefilter("always")
        model.save(tmp_path / "model.keras")
        keras.saving.load_model(tmp_path / "model.keras")
    assert not [each for each in found if "is now called" in str(each.message)]


# What the version that saved the files computed after two epochs more: the loss, and the sizes of the trained weights.
EXPECTED = {
    "pddm": (
        2.0239766,
        [10.532118, 0.744189, 12.488228, 0.014099, 14.118629, 0.035955, 21.416039, 0.055435, 3.05802, 0.0],
    ),
    "margin": (0.4834232, [10.524499, 0.132514, 4.98101]),
    "tfsim": (0.2397933, [10.633089, 0.300516]),
}


@pytest.mark.parametrize(
    "name",
    [
        "pddm",
        pytest.param("margin", marks=backends.tensorflow_only("numbers that TensorFlow's generator drew")),
        pytest.param("tfsim", marks=backends.tensorflow_only("tensorflow-similarity")),
    ],
)
def test_files_of_the_version_before_go_on_as_they_would_have(name):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        model = keras.saving.load_model(SAVED / f"{name}.keras")
    assert not [each for each in found if "is now called" in str(each.message)]
    x, labels = data()
    model.fit(x, labels, batch_size=12, epochs=2, shuffle=False, verbose=0)
    value, sizes = EXPECTED[name]
    assert np.ravel(model.evaluate(x, labels, batch_size=12, verbose=0))[0] == pytest.approx(value, rel=1e-4)
    found = [float(np.sum(np.abs(variable.numpy()))) for variable in model.trainable_variables]
    np.testing.assert_allclose(found, sizes, rtol=1e-4, atol=1e-6)


def test_what_the_files_hold():
    margin = keras.saving.load_model(SAVED / "margin.keras").embedding_loss
    assert isinstance(margin.miner, mining.SemiHardMiner)
    assert margin.loss_learning_rate == 0.1
    if backends.TENSORFLOW:
        assert isinstance(keras.saving.load_model(SAVED / "tfsim.keras").embedding_loss, losses.TFSimilarityLoss)
    pddm = keras.saving.load_model(SAVED / "pddm.keras")
    assert isinstance(pddm.pair_scorer, dml.layers.PDDMUnit)
    assert pddm.embedding_loss.loss_learning_rate == 0.01


def test_nothing_but_the_model_has_to_be_imported():
    script = f"import keras, keras_dml; keras_dml.MetricLearner; keras.saving.load_model({str(SAVED / 'pddm.keras')!r})"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
