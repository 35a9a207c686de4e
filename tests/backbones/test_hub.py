"""Backbones of keras-hub: tiny, with fresh weights, as instances and as presets in a local folder."""

import importlib.util

import keras
import numpy as np
import pytest

from keras_dml.backbones import build

pytestmark = pytest.mark.skipif(importlib.util.find_spec("keras_hub") is None, reason="needs keras-hub")

SHAPE = (28, 28, 3)
OPTIONS = {"scale": [1 / 60, 1 / 58, 1 / 57], "offset": [-2.1, -2.0, -1.8]}


def _dinov2(registers=1):
    import keras_hub

    return keras_hub.models.DINOV2Backbone(
        patch_size=14,
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        num_register_tokens=registers,
        image_shape=SHAPE,
        position_embedding_shape=SHAPE,
    )


def _images():
    return np.random.default_rng(0).uniform(0, 255, (2, *SHAPE)).astype("float32")


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("pooling", ["avg", "max", "avg+max", "class_token"])
def test_tokens_of_an_instance(pooling, registers):
    backbone = _dinov2(registers)
    encoder = build(backbone, None, pooling, normalize=False, options=OPTIONS)
    tokens = keras.ops.convert_to_numpy(
        backbone(_images() * np.float32(OPTIONS["scale"]) + np.float32(OPTIONS["offset"]))
    )
    patches = tokens[:, 1 + registers :]
    assert patches.shape[1] == 4
    expected = {"avg": patches.mean(1), "max": patches.max(1), "class_token": tokens[:, 0]}
    expected["avg+max"] = expected["avg"] + expected["max"]
    np.testing.assert_allclose(encoder(_images()), expected[pooling], rtol=1e-4, atol=1e-5)


def test_saved_encoder(tmp_path):
    encoder = build(_dinov2(), 8, "class_token", options=OPTIONS)
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(loaded(_images()), encoder(_images()), atol=1e-6)


def test_a_preset_by_name_brings_its_values(tmp_path):
    import keras_hub

    folder = str(tmp_path / "preset")
    backbone = _dinov2()
    backbone.save_to_preset(folder)
    keras_hub.layers.ImageConverter(image_size=SHAPE[:2], **OPTIONS).save_to_preset(folder)
    encoder = build(f"keras_hub:{folder}", None, "class_token", SHAPE, False, weights="imagenet")
    values = _images() * np.float32(OPTIONS["scale"]) + np.float32(OPTIONS["offset"])
    np.testing.assert_allclose(encoder(_images()), backbone(values)[:, 0], rtol=1e-4, atol=1e-5)


def test_an_unknown_preset(tmp_path):
    with pytest.raises(ValueError, match="keras-hub could not load the preset"):
        build(f"keras_hub:{tmp_path / 'none'}", input_shape=SHAPE)
