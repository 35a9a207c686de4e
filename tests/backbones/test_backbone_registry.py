"""Backbones register beside their builders, in this package and outside of it."""

import inspect

import keras
import numpy as np
import pytest

from keras_dml.backbones import BACKBONES, build, load_backbone_weights, register_backbone
from keras_dml.backbones.registry import _TRAITS, traits


@pytest.fixture
def registry():
    """What a test registers is gone after it."""
    known, known_traits = dict(BACKBONES._entries), dict(_TRAITS)
    yield
    BACKBONES._entries.clear()
    BACKBONES._entries.update(known)
    _TRAITS.clear()
    _TRAITS.update(known_traits)


def test_every_builder_takes_an_input_shape_and_is_named_as_it_is_called():
    assert {"bn_inception", "googlenet", "mobilenet_v2", "resnet50", "small_conv"} <= set(BACKBONES)
    for name, builder in BACKBONES.items():
        assert next(iter(inspect.signature(builder).parameters)) == "input_shape"
        assert builder.__name__ == name
        assert builder.__module__.startswith("keras_dml.backbones.")


def test_a_backbone_from_outside(registry, tmp_path):
    @register_backbone("pooled", torch_origin="https://example.org/pooled.pth")
    def pooled(input_shape, width=4):
        images = keras.Input(input_shape)
        return keras.Model(images, keras.layers.Conv2D(width, 3, name="conv1")(images), name="pooled")

    encoder = build("pooled", 8, input_shape=(8, 8, 3), options={"width": 5})
    assert encoder(np.zeros((2, 8, 8, 3), np.float32)).shape == (2, 8)
    with pytest.raises(ValueError, match=r"option of pooled: 'widths'\. Did you mean 'width'\?"):
        build("pooled", input_shape=(8, 8, 3), options={"widths": 5})
    with pytest.raises(ValueError, match=r"no ImageNet weights for pooled\. Download https://example.org/pooled\.pth"):
        build("pooled", input_shape=(8, 8, 3), weights="imagenet")
    (tmp_path / "pooled.pth").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"pooled\.pth") as error:
        load_backbone_weights(pooled((8, 8, 3)), tmp_path / "pooled.pth")
    assert "checkpoints fit" not in str(error.value)


def test_options_may_follow_from_the_weights(registry):
    asked = []

    def options_for(weights):
        asked.append(weights)
        return {"width": 3}

    @register_backbone("following", options_for=options_for)
    def following(input_shape, width=4):
        images = keras.Input(input_shape)
        return keras.Model(images, keras.layers.Conv2D(width, 3)(images), name="following")

    assert build("following", None, input_shape=(8, 8, 3)).output.shape == (None, 3)
    assert build("following", None, input_shape=(8, 8, 3), options={"width": 2}).output.shape == (None, 2)
    assert asked == [None, None]
    assert traits("nothing").torch_origin is None


def test_a_taken_name_is_an_error(registry):
    def other(input_shape):
        raise AssertionError

    with pytest.raises(ValueError, match=r"'resnet50' is taken by keras_dml\.backbones\.resnet50\.resnet50"):
        register_backbone("resnet50")(other)
    assert BACKBONES["resnet50"] is not other
    # A cell of a notebook may run twice.
    assert register_backbone("mine")(other) is register_backbone("mine")(other)
    with pytest.raises(KeyError, match="Did you mean 'resnet50'"):
        _ = BACKBONES["resnet5"]
