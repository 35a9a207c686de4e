"""Weights out of files: what fits is loaded exactly, what does not is named and nothing is loaded."""

import zipfile

import formula_weights
import keras
import numpy as np
import parity_checks
import pytest

from keras_dml.backbones import build, build_backbone, convert, load_backbone_weights, weights
from keras_dml.backbones.torch_checkpoint import read_state_dict
from keras_dml.backbones.weights import torch_state

SHAPE = (32, 32, 3)
SMALL = {"widths": (4, 6)}


def _same(first, second):
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def _randomize(model):
    random = np.random.default_rng(1)
    model.set_weights([random.uniform(0.5, 1, value.shape) for value in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def googlenet_state():
    state = torch_state(build_backbone("googlenet", SHAPE))
    return {key: formula_weights.weight(key, shape) for key, (_, shape) in state.items()}


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_keras_files(tmp_path, suffix):
    source = _randomize(build_backbone("small_conv", SHAPE, SMALL))
    path = tmp_path / f"weights{suffix}"
    source.save_weights(path) if suffix == ".weights.h5" else source.save(path)
    _same(build_backbone("small_conv", SHAPE, SMALL, weights=path), source)


def test_a_saved_encoder_gives_its_backbone(tmp_path):
    encoder = _randomize(build("small_conv", 8, input_shape=SHAPE, options=SMALL))
    encoder.save(tmp_path / "encoder.keras")
    backbone = build_backbone("small_conv", SHAPE, SMALL, weights=tmp_path / "encoder.keras")
    for one, other in zip(backbone.get_weights(), encoder.get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(one, other)


def test_keras_files_that_do_not_fit(tmp_path):
    source = build_backbone("small_conv", SHAPE, SMALL)
    for suffix in (".weights.h5", ".h5", ".keras"):
        path = tmp_path / f"weights{suffix}"
        source.save_weights(path) if suffix == ".weights.h5" else source.save(path)
        for widths in ((4, 8), (4, 6, 8)):
            other = build_backbone("small_conv", SHAPE, {"widths": widths})
            before = other.get_weights()
            with pytest.raises(ValueError, match="does not fit the backbone small_conv"):
                load_backbone_weights(other, path)
            for one, two in zip(before, other.get_weights(), strict=True):
                np.testing.assert_array_equal(one, two)


def test_names_and_shapes_are_listed(tmp_path):
    build_backbone("small_conv", SHAPE, {"widths": (4, 6, 8)}).save(tmp_path / "more.h5")
    with pytest.raises(ValueError, match=r"in the file, but not in the model: stage2_0_conv \[\(3, 3, 6, 8\)\]"):
        build_backbone("small_conv", SHAPE, SMALL, weights=tmp_path / "more.h5")
    with pytest.raises(
        ValueError, match=r"stage1_0_conv: \[\(3, 3, 4, 6\)\] in the file, \[\(3, 3, 4, 8\)\] in the mo"
    ):
        build_backbone("small_conv", SHAPE, {"widths": (4, 8, 8)}, weights=tmp_path / "more.h5")


def test_missing_misshapen_and_strange_keys_of_a_checkpoint(tmp_path, googlenet_state):
    path = tmp_path / "weights.safetensors"
    backbone = build_backbone("googlenet", SHAPE)
    before = backbone.get_weights()
    wrong = dict(googlenet_state)
    del wrong["inception3a.branch1.bn.bias"]
    wrong["conv2.conv.weight"] = wrong["conv2.conv.weight"][:5]
    wrong["inception9z.weight"] = np.zeros(3, "float32")
    parity_checks.write_safetensors(path, wrong)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_backbone_weights(backbone, path)
    text = str(caught.value)
    assert "1 missing in the file: inception3a.branch1.bn.bias (64,)" in text
    assert "conv2.conv.weight: (5, 64, 1, 1) in the file, (64, 64, 1, 1) in the model" in text
    assert "1 in the file, but not in the model: inception9z.weight (3,)" in text
    for one, other in zip(before, backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_prefix_classifier_and_old_statistics(tmp_path, googlenet_state):
    path = tmp_path / "weights.safetensors"
    # What data-parallel training, auxiliary classifiers and the published BN-Inception's (1, channels) look like.
    state = {f"module.{key}": value[None] if value.ndim == 1 else value for key, value in googlenet_state.items()}
    state["module.aux1.conv.conv.weight"] = state["module.fc.bias"] = np.zeros(3, "float32")
    state["module.conv1.bn.num_batches_tracked"] = np.zeros((), "float32")
    parity_checks.write_safetensors(path, state)
    backbone = build_backbone("googlenet", SHAPE)
    report = load_backbone_weights(backbone, path)
    assert report.loaded == len(googlenet_state)
    assert set(report.unused) == {"aux1.conv.conv.weight", "fc.bias"}
    for key, (variable, _) in torch_state(backbone).items():
        value = googlenet_state[key]
        np.testing.assert_array_equal(variable, value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)


def test_values_that_are_not_finite(tmp_path, googlenet_state):
    path = tmp_path / "weights.safetensors"
    parity_checks.write_safetensors(path, {**googlenet_state, "conv1.bn.bias": np.full(64, np.nan, "float32")})
    with pytest.raises(ValueError, match=r"not finite, in: conv1\.bn\.bias"):
        build_backbone("googlenet", SHAPE, weights=path)


def test_conversion_command(tmp_path, googlenet_state, capsys, monkeypatch):
    checkpoint, output = tmp_path / "weights.safetensors", tmp_path / "out" / "googlenet.weights.h5"
    parity_checks.write_safetensors(checkpoint, {**googlenet_state, "fc.bias": np.zeros(3, "float32")})
    arguments = ["googlenet", str(checkpoint), str(output), "--size", "32"]
    files = []
    monkeypatch.setattr(weights, "read_state_dict", lambda path: files.append(path) or read_state_dict(path))
    assert convert.main(arguments) == 0
    assert files == [checkpoint]
    printed = capsys.readouterr().out
    assert "285 arrays of googlenet" in printed
    assert "left out: fc.bias" in printed
    _same(build_backbone("googlenet", SHAPE, weights=output), build_backbone("googlenet", SHAPE, weights=checkpoint))
    assert convert.main(arguments) == 1
    assert "exists" in capsys.readouterr().err
    output.unlink()
    for wrong in ('{"alpha": 0.35', "0.35"):
        with pytest.raises(SystemExit):
            convert.main([*arguments, "--options", wrong])
        assert f"{wrong} is no JSON" in capsys.readouterr().err
    for name, option in (("mobilenet_v2", "alfa"), ("MobileNet", "alfa"), ("MobileNet", "classes")):
        assert convert.main([name, *arguments[1:], "--options", f'{{"{option}": 1}}']) == 1
        assert f"Unknown option of {name}: '{option}'" in capsys.readouterr().err


def test_forms_of_resnet50_follow_the_file(tmp_path):
    for form in ("keras", "torchvision"):
        source = build_backbone("resnet50", SHAPE, {"form": form})
        source.save_weights(tmp_path / f"{form}.weights.h5")
        loaded = build_backbone("resnet50", SHAPE, weights=tmp_path / f"{form}.weights.h5")
        assert loaded.count_params() == source.count_params()
        _same(loaded, source)


def test_a_checkpoint_for_a_network_that_has_none(tmp_path, googlenet_state):
    path = tmp_path / "weights.safetensors"
    parity_checks.write_safetensors(path, googlenet_state)
    with pytest.raises(ValueError, match="PyTorch checkpoints fit bn_inception, googlenet, resnet50"):
        build_backbone("small_conv", SHAPE, weights=path)


def test_a_model_takes_weights_from_a_file(tmp_path):
    source = _randomize(build_backbone("small_conv", SHAPE, SMALL))
    source.save_weights(tmp_path / "mine.weights.h5")
    model = keras.models.clone_model(source)
    build(model, 8, weights=tmp_path / "mine.weights.h5")
    _same(model, source)


@pytest.mark.parametrize("name", ["resnet50", "small_conv"])
def test_a_keras_file_that_is_none(tmp_path, name):
    path = tmp_path / "weights.keras"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"weights\.keras is no model that Keras saved.*not a zip file"):
        build_backbone(name, SHAPE, weights=path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.json", "{}")
    with pytest.raises(ValueError, match=r"weights\.keras is no model that Keras saved.*it lacks config\.json"):
        build_backbone(name, SHAPE, weights=path)


@pytest.mark.parametrize("name", ["none.h5", "none.pth"])
def test_no_such_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="There is no weights file"):
        build_backbone("resnet50", SHAPE, weights=tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"), [("weights.h5", "not a readable HDF5 file"), ("weights.npy", "must end in .h5")]
)
def test_a_file_of_another_kind(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=message):
        build_backbone("small_conv", SHAPE, weights=tmp_path / name)
