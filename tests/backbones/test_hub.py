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


def _save(backbone, folder, shape=SHAPE):
    import keras_hub

    backbone.save_to_preset(folder)
    keras_hub.layers.ImageConverter(image_size=shape[:2], **OPTIONS).save_to_preset(folder)
    return f"keras_hub:{folder}"


def _dinov3():
    import keras_hub

    return keras_hub.models.DINOV3Backbone(
        patch_size=14, num_layers=1, hidden_dim=16, num_heads=2, intermediate_dim=32, image_shape=SHAPE
    )


def _siglip():
    import keras_hub

    sizes = {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "intermediate_dim": 32}
    vision = keras_hub.models.SigLIPVisionEncoder(patch_size=14, image_shape=SHAPE, **sizes)
    text = keras_hub.models.SigLIPTextEncoder(
        vocabulary_size=8, embedding_dim=16, max_sequence_length=4, projection_dim=16, **sizes
    )
    return keras_hub.models.SigLIPBackbone(vision, text)


def test_dinov3_by_preset(tmp_path, recwarn):
    backbone = _dinov3()
    name = _save(backbone, str(tmp_path / "preset"))
    values = _images() * np.float32(OPTIONS["scale"]) + np.float32(OPTIONS["offset"])
    tokens = np.array(backbone({"pixel_values": values}))
    for pooling, expected in {"class_token": tokens[:, 0], "avg": tokens[:, 5:].mean(axis=1)}.items():
        encoder = build(name, None, pooling, SHAPE, False, weights="imagenet")
        np.testing.assert_allclose(encoder(_images()), expected, rtol=1e-4, atol=1e-5)
    assert not [one for one in recwarn if "structure of `inputs`" in str(one.message)]
    # Rotary positions: another size needs no other weights.
    larger = build(name, 8, "avg", (42, 42, 3), options={"image_shape": (42, 42, 3)}, weights="imagenet")
    assert larger.output_shape == (None, 8)


@pytest.mark.parametrize("by_name", [True, False])
def test_of_siglip_the_image_tower(tmp_path, by_name):
    whole = _siglip()
    if by_name:
        encoder = build(_save(whole, str(tmp_path / "preset")), None, "avg", SHAPE, False, weights="imagenet")
    else:
        encoder = build(whole, None, normalize=False, options=OPTIONS)
    values = _images() * np.float32(OPTIONS["scale"]) + np.float32(OPTIONS["offset"])
    np.testing.assert_allclose(encoder(_images()), whole.vision_encoder({"images": values}), rtol=1e-4, atol=1e-5)
    assert encoder.output_shape == (None, 16)
    # None of the weights of the text tower.
    assert len(encoder.weights) == len(whole.vision_encoder.weights)
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(loaded(_images()), encoder(_images()), atol=1e-6)


def test_a_preset_of_another_size_is_named(tmp_path):
    name = _save(_dinov2(), str(tmp_path / "preset"))
    with pytest.raises(ValueError, match=r"takes images of shape \(28, 28, 3\)\. Received: input_shape=\(42, 42, 3\)"):
        build(name, input_shape=(42, 42, 3))
    assert build(name, 8, input_shape=(42, 42, 3), options={"image_shape": (42, 42, 3)}).output_shape == (None, 8)


def test_what_needs_a_download_says_so(monkeypatch):
    import keras_hub

    def refused(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(keras_hub.models.Backbone, "from_preset", refused)
    with pytest.raises(ValueError, match=r"'dinov3_vit_small_lvd1689m': no route to host\. A preset's name needs"):
        build("keras_hub:dinov3_vit_small_lvd1689m", input_shape=SHAPE)


def test_other_models_for_images_and_texts_are_refused(tmp_path):
    import keras_hub

    sizes = {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "intermediate_dim": 32}
    vision = keras_hub.models.CLIPVisionEncoder(patch_size=14, image_shape=SHAPE, **sizes)
    text = keras_hub.models.CLIPTextEncoder(vocabulary_size=8, embedding_dim=16, max_sequence_length=4, **sizes)
    whole = keras_hub.models.CLIPBackbone(vision, text, 8)
    with pytest.raises(ValueError, match="with 2 inputs"):
        build(whole, 8)
    with pytest.raises(ValueError, match="A backbone takes images alone"):
        build(_save(whole, str(tmp_path / "preset")), 8, input_shape=SHAPE)
