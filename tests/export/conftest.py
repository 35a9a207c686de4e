"""A small untrained run, and models built from it, shared by the tests of a session."""

import json

import pytest
from export_helpers import run_python


@pytest.fixture(autouse=True)
def _fresh_keras_state():
    """Instead of the fixture of all tests, which clears Keras's session after each: models here are shared."""


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """What zoo.reproduce leaves behind, with an untrained encoder of 16 x 16 gray images."""
    import keras

    folder = tmp_path_factory.mktemp("run") / "tiny"
    folder.mkdir()
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(24),
            keras.layers.UnitNormalization(),
        ]
    )
    encoder.save(folder / "encoder.keras")
    content = {
        "format": 1,
        "name": "tiny",
        "arm": "das",
        "seed": 0,
        "benchmark": "digits",
        "recipe": {},
        "preprocessing": {"size": 16, "resize": 16, "channels": 1},
        "embedding_dim": 24,
        "versions": {},
    }
    (folder / "run.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def digits():
    from keras_dml.data import load

    return load("digits").test


@pytest.fixture(scope="session")
def digits_model(run_folder, tmp_path_factory):
    """A model directory built from the command line: digits 5-9, exact index."""
    directory = tmp_path_factory.mktemp("models") / "digits"
    run_python("-m", "export.build", run_folder, "--gallery", "digits", "--output", directory)
    return directory
