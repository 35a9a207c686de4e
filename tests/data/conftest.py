"""What the tests of data run under."""

import pytest


@pytest.fixture(autouse=True)
def _fresh_keras_state():
    """Keras is not used here, and clearing its state takes a second each time."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("KERAS_DML_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
