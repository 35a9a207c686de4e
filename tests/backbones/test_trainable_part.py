"""What of an encoder trains: blocks found in every kind of network, freezing, LoRA."""

import importlib.util

import keras
import numpy as np
import pytest

from keras_dml.backbones import build
from keras_dml.backbones.trainable_part import blocks, enable_lora, lora_layers, set_trainable_part

needs_hub = pytest.mark.skipif(importlib.util.find_spec("keras_hub") is None, reason="needs keras-hub")
SHAPE = (28, 28, 3)
SIZES = {"num_layers": 3, "hidden_dim": 16, "num_heads": 2, "image_shape": SHAPE, "patch_size": 14}


def hub(name):
    import keras_hub

    models = keras_hub.models
    if name == "dinov2":
        return models.DINOV2Backbone(**SIZES, intermediate_dim=32, position_embedding_shape=SHAPE)
    if name == "dinov3":
        return models.DINOV3Backbone(**SIZES, intermediate_dim=32)
    if name == "siglip":
        return models.SigLIPVisionEncoder(**SIZES, intermediate_dim=32)
    return models.ViTBackbone(**SIZES, mlp_dim=32)


def names(layers):
    return [layer.name for layer in layers]


@needs_hub
@pytest.mark.parametrize(
    ("name", "before", "last"),
    [
        ("dinov2", "embeddings", ["layers_2", "layernorm"]),
        ("dinov3", "embeddings", ["layers_2", "layernorm"]),
        ("siglip", "embedding", ["encoder_block_2", "post_layer_norm", "head"]),
        ("vit", "vit_patching_and_embedding", ["transformer_block_3", "ln"]),
    ],
)
def test_transformers(name, before, last):
    encoder = build(hub(name), 8)
    stem, found = blocks(encoder)
    assert names(stem) == [before]
    assert [len(block) for block in found[:-1]] == [1, 1]
    assert names(found[-1]) == last
    set_trainable_part(encoder, 1)
    trained = {id(variable) for variable in encoder.trainable_variables}
    expected = [*found[-1], encoder.get_layer("embedding")]
    assert trained == {id(variable) for layer in expected for variable in layer.trainable_variables}
    assert trained
    images = np.random.default_rng(0).uniform(0, 255, (2, *SHAPE)).astype("float32")
    assert encoder(images).shape == (2, 8)


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [
        ("small_conv", 6, ["stage2_1_conv", "stage2_1_bn"]),
        # The stem and 3 + 4 + 6 + 3 residual units.
        ("resnet50", 17, None),
        # The stem's three convolutions and nine modules.
        ("googlenet", 12, None),
        ("mobilenet_v2", 32, ["Conv_1", "Conv_1_bn"]),
    ],
)
def test_convolutional_networks(name, count, last):
    encoder = build(name, 8, input_shape=(64, 64, 3))
    stem, found = blocks(encoder)
    assert (stem, len(found)) == ([], count)
    assert last is None or names(found[-1]) == last
    weighted = [layer for layer in encoder.layers if layer.weights and layer.name != "embedding"]
    together = [layer for block in found for layer in block]
    assert {id(layer) for layer in weighted} == {id(layer) for layer in together}
    assert len(together) == len(weighted)
    if name == "resnet50":
        assert all(layer.name.startswith("layer4.2") for layer in found[-1])
        assert all(layer.name.startswith("layer4.1") for layer in found[-2])


def test_frozen_batch_normalization_is_in_inference_mode():
    encoder = build("small_conv", 4, input_shape=(8, 8, 3))
    set_trainable_part(encoder, 2)
    _, found = blocks(encoder)
    moving = [layer.moving_mean for block in found for layer in block if hasattr(layer, "moving_mean")]
    before = [np.array(mean) for mean in moving]
    encoder(np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype("float32"), training=True)
    changed = [not np.array_equal(mean, then) for mean, then in zip(moving, before, strict=True)]
    assert changed == [False] * 4 + [True] * 2


def test_the_head_alone():
    encoder = build("small_conv", 4, input_shape=(8, 8, 3))
    set_trainable_part(encoder, "head")
    assert {id(v) for v in encoder.trainable_variables} == {id(v) for v in encoder.get_layer("embedding").variables}
    everything = build("small_conv", 4, input_shape=(8, 8, 3))
    count = len(everything.trainable_variables)
    set_trainable_part(everything, "all")
    assert len(everything.trainable_variables) == count


def test_what_cannot_be_frozen_so_is_refused():
    encoder = build("small_conv", 4, input_shape=(8, 8, 3))
    with pytest.raises(ValueError, match=r"has 6 blocks\. Received: trainable=7"):
        set_trainable_part(encoder, 7)
    for part in (0, "tail", True):
        with pytest.raises(ValueError, match='must be "all", "head" or a number of last blocks'):
            set_trainable_part(encoder, part)
    with pytest.raises(ValueError, match="the encoder has none"):
        set_trainable_part(build("small_conv", None, input_shape=(8, 8, 3)), "head")
    with pytest.raises(ValueError, match="LoRA needs a transformer of keras-hub"):
        enable_lora(encoder, 2)


@needs_hub
@pytest.mark.parametrize("name", ["dinov2", "dinov3", "siglip", "vit"])
def test_lora(name, tmp_path):
    encoder = build(hub(name), 8)
    images = np.random.default_rng(0).uniform(0, 255, (2, *SHAPE)).astype("float32")
    before = np.array(encoder(images))
    enable_lora(encoder, 2)
    # B is 0 at first.
    np.testing.assert_array_equal(encoder(images), before)
    found = lora_layers(encoder)
    assert len(found) >= 2 * SIZES["num_layers"]
    head = encoder.get_layer("embedding").trainable_variables
    own = {"lora_kernel_a", "lora_kernel_b", "bias"}
    for variable in encoder.trainable_variables:
        assert variable.name in own or any(variable is one for one in head)
    for layer in found:
        layer.lora_kernel_b.assign(np.full(layer.lora_kernel_b.shape, 0.1))
    moved = np.array(encoder(images))
    assert not np.allclose(moved, before, atol=1e-3)
    encoder.save(tmp_path / "encoder.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "encoder.keras")(images), moved, atol=1e-5)


@needs_hub
def test_lora_of_a_network_without_attention():
    import keras_hub

    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
        image_shape=SHAPE,
    )
    with pytest.raises(ValueError, match="has no attention with projections of queries and values"):
        enable_lora(build(backbone, 8), 2)
