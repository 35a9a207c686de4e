"""Encoders: names, head, values of pixels, precision, saving, published sizes."""

import builtins
import sys
import types

import keras
import numpy as np
import pytest

import keras_dml as dml
from keras_dml.backbones import POOLINGS, build, build_backbone
from keras_dml.backbones.applications import application, application_names

TINY = (32, 32, 3)


def _images(shape=TINY, count=2):
    return np.random.default_rng(0).uniform(0, 255, (count, *shape)).astype("float32")


def _trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize(
    ("name", "options", "published"),
    [
        # Parameters of torchvision 0.28's and pretrainedmodels 0.7.4's networks, less their classifiers.
        ("resnet50", {}, 25_557_032 - 2_049_000),
        ("googlenet", {}, 6_624_904 - 1_025_000),
        ("bn_inception", {}, 11_295_240 - 1_025_000),
        ("mobilenet_v2", {}, 3_504_872 - 1_281_000),
    ],
)
def test_published_parameter_counts(name, options, published):
    backbone = build_backbone(name, (64, 32, 3), options)
    assert _trainable(backbone) == published
    assert backbone.output.shape[1:3] == (2, 1)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("resnet50", {"form": "keras"}, 23_587_712),
        ("mobilenet_v2", {"alpha": 0.35}, 410_208),
    ],
)
def test_keras_parameter_counts(name, options, count):
    assert build_backbone(name, (64, 64, 3), options).count_params() == count


@pytest.mark.parametrize("pooling", ["avg", "max", "avg+max"])
@pytest.mark.parametrize("normalize", [False, True])
def test_head(pooling, normalize):
    encoder = build("small_conv", 8, pooling, TINY, normalize, {"widths": (4, 6)})
    x = _images()
    features = keras.ops.convert_to_numpy(keras.Model(encoder.input, encoder.get_layer("stage1_1_relu").output)(x))
    pooled = {"avg": features.mean((1, 2)), "max": features.max((1, 2))}
    pooled["avg+max"] = pooled["avg"] + pooled["max"]
    kernel, bias = encoder.get_layer("embedding").get_weights()
    expected = pooled[pooling] @ kernel + bias
    if normalize:
        expected = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(encoder(x), expected, rtol=1e-4, atol=1e-5)


def test_no_linear_layer_and_grayscale():
    encoder = build("small_conv", None, "avg", (16, 16, 1), options={"widths": (4, 6)})
    assert encoder.output.shape == (None, 6)


@pytest.mark.parametrize("name", application_names())
def test_values_that_each_application_receives(name, monkeypatch):
    """Against `preprocess_input` of the network's own module in Keras."""

    def fake(include_top, weights, input_tensor):
        return types.SimpleNamespace(output=keras.layers.Identity()(input_tensor))

    genuine = getattr(keras.applications, name)
    module = sys.modules[genuine.__module__]
    monkeypatch.setattr(keras.applications, name, fake)
    image = np.broadcast_to(np.array([255, 153, 0], "float32"), (1, 4, 4, 3))
    values = application(name, (4, 4, 3))(image)
    np.testing.assert_allclose(values, module.preprocess_input(image.copy()), atol=1e-4)


def test_values_agree_with_keras_preprocessing():
    x = _images((64, 64, 3))
    encoder = build_backbone("mobilenet_v2", (64, 64, 3), {"alpha": 0.35})
    plain = keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, include_top=False, weights=None)
    plain.set_weights(encoder.get_weights())
    expected = plain(keras.applications.mobilenet_v2.preprocess_input(x.copy()))
    np.testing.assert_allclose(encoder(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenet_v2", "small_conv"])
def test_mixed_precision(name):
    options = {"alpha": 0.35} if name == "mobilenet_v2" else {"widths": (4, 6)}
    full = build(name, 16, "avg+max", TINY, options=options)
    keras.config.set_dtype_policy("mixed_float16")
    half = build(name, 16, "avg+max", TINY, options=options)
    half.set_weights(full.get_weights())
    convolution = next(layer for layer in half.layers if isinstance(layer, keras.layers.Conv2D))
    assert convolution.compute_dtype == "float16"
    # With fresh weights and fresh statistics MobileNetV2's values vanish in float16: statistics of the batch.
    output = half(_images(), training=True)
    assert output.dtype == "float32"
    assert half.get_layer("embedding").compute_dtype == "float32"
    np.testing.assert_allclose(np.linalg.norm(output, axis=-1), 1, atol=1e-5)
    if name == "small_conv":
        np.testing.assert_allclose(output, full(_images(), training=True), atol=0.02)


@pytest.mark.parametrize("name", ["bn_inception", "small_conv"])
def test_saved_encoder(name, tmp_path):
    encoder = build(name, 8, "avg+max", TINY)
    x = _images()
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(loaded(x), encoder(x), atol=1e-6)


def test_saved_encoder_needs_keras_alone():
    """No layer of ours, so that `encoder.keras` loads where keras_dml is not imported."""
    for layer in build("bn_inception", 8, input_shape=TINY)._flatten_layers():
        assert type(layer).__module__.startswith("keras."), layer


def test_one_training_step_compiled():
    encoder = build("small_conv", 8, input_shape=TINY, options={"widths": (4, 6)})
    encoder.compile("sgd", "mse", jit_compile=True)
    before = encoder.get_weights()
    history = encoder.fit(_images(), np.ones((2, 8), "float32"), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert all(np.isfinite(new).all() for new in encoder.get_weights())
    assert any((old != new).any() for old, new in zip(before, encoder.get_weights(), strict=True))


def test_application_by_any_spelling():
    assert build_backbone("conv_next_tiny", TINY).output.shape == (None, 1, 1, 768)


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_a_model_as_backbone(rank):
    inputs = keras.Input((8, 8, 3))
    x = {2: keras.layers.Flatten(), 3: keras.layers.Reshape((64, 3)), 4: keras.layers.Identity()}[rank](inputs)
    encoder = build(keras.Model(inputs, x), None, "max", normalize=False)
    x = _images((8, 8, 3))
    np.testing.assert_allclose(encoder(x), x.reshape(2, -1) if rank == 2 else x.max((1, 2)), rtol=1e-6)


def test_a_model_with_its_own_values():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Identity()(inputs), name="mine")
    encoder = build(model, None, "avg", (8, 8, 3), False, {"scale": 1 / 255, "offset": [-1.0, 0.0, 1.0]})
    x = _images((8, 8, 3))
    np.testing.assert_allclose(encoder(x), (x / 255 + [-1, 0, 1]).mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_a_subclassed_model_as_backbone():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.convolution = keras.layers.Conv2D(4, 3)

        def call(self, inputs):
            return self.convolution(inputs)

    assert build(Mine(), 8, input_shape=TINY)(_images()).shape == (2, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet5"}, "Did you mean 'resnet50'"),
        ({"name": 3}, "a name or a keras.Model"),
        ({"name": "small_conv", "pooling": "mean"}, "Unknown pooling"),
        ({"name": "small_conv", "embedding_dim": 0}, "`embedding_dim` must be positive"),
        ({"name": "resnet50", "input_shape": (32, 32, 1)}, "color images"),
        ({"name": "resnet50", "input_shape": (None, None, 3)}, "known sides"),
        ({"name": "resnet50", "options": {"form": "caffe"}}, "`form` of resnet50"),
        ({"name": "resnet50", "weights": "imagenet", "options": {"form": "torchvision"}}, "resnet50-0676ba61.pth"),
        ({"name": "bn_inception", "weights": "imagenet"}, "bn_inception-52deb4733.pth"),
        ({"name": "googlenet", "weights": "imagenet"}, "googlenet-1378be20.pth"),
        ({"name": "small_conv", "weights": "imagenet"}, "no ImageNet weights"),
        ({"name": "bn_inception", "input_shape": (75, 75, 3)}, "multiples of 32"),
        ({"name": "mobilenet_v2", "options": {"alpha": 0}}, "`alpha` must be positive"),
        ({"name": "small_conv", "pooling": "class_token"}, "needs a transformer"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**{"input_shape": TINY, **arguments})


def test_imagenet_weights_come_from_keras(monkeypatch):
    asked = {}
    original = keras.applications.ResNet50

    def fake(**arguments):
        asked.update(arguments)
        return original(**{**arguments, "weights": None})

    monkeypatch.setattr(keras.applications, "ResNet50", fake)
    encoder = dml.backbones.build("resnet50", embedding_dim=512, pooling="avg+max", weights="imagenet")
    assert asked["weights"] == "imagenet"
    assert encoder.output.shape == (None, 512)
    assert {layer.name for layer in encoder.layers} >= {"conv1_conv", "conv5_block3_3_conv"}


def test_failed_download_says_what_to_do(monkeypatch):
    def fail(**arguments):
        raise Exception("URL fetch failure on https://example.org/weights.h5")

    monkeypatch.setattr(keras.applications, "MobileNetV2", fail)
    with pytest.raises(RuntimeError, match=r"(?s)example.org/weights.h5.*weights=FILE"):
        build("mobilenet_v2", weights="imagenet")


def test_keras_hub_missing(monkeypatch):
    genuine = builtins.__import__

    def refuse(name, *arguments, **keywords):
        if name == "keras_hub":
            raise ImportError(name)
        return genuine(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install \"keras-dml\[models\]\""):
        build("keras_hub:dinov2_base")


def test_known_poolings():
    assert POOLINGS == ("avg", "max", "avg+max", "class_token")


def test_a_network_with_a_layer_called_normalization():
    encoder = build("EfficientNetV2B0", embedding_dim=4, input_shape=(32, 32, 3))
    embeddings = np.asarray(encoder(np.zeros((2, 32, 32, 3), "float32")))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_the_linear_layer_starts_as_torch_s():
    """The law of `torch.nn.Linear`: uniform in +-1 / sqrt(fan_in), for the bias too."""
    keras.utils.set_random_seed(0)
    features = keras.Input((2048,))
    backbone = keras.Model(features, keras.layers.Identity()(features))
    layer = build(backbone, embedding_dim=512, embedding_init="torch").get_layer("embedding")
    bound = 2048**-0.5
    for values in map(np.asarray, layer.weights):
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.98 * bound
        assert abs(values.mean()) < 0.1 * bound
        assert values.std() == pytest.approx(bound / 3**0.5, rel=0.1)
    default = build(backbone, embedding_dim=512).get_layer("embedding")
    assert np.asarray(default.kernel).std() == pytest.approx((2 / (2048 + 512)) ** 0.5, rel=0.01)
    with pytest.raises(ValueError, match=r"embedding_init 'troch'. Did you mean 'torch'"):
        build(backbone, embedding_init="troch")
