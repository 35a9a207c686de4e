"""Our networks with weights by formula, and the output of each of their layers."""

import json

import formula_weights
import keras
import numpy as np

from keras_dml.backbones import build_backbone
from keras_dml.backbones.weights import torch_state


def write_safetensors(path, tensors):
    """Writes float32 arrays as a safetensors file."""
    header, offset = {}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in tensors.values():
            file.write(np.ascontiguousarray(value).tobytes())


def formula_checkpoint(name, path):
    """A checkpoint of the network with weights by formula, and a classifier."""
    size = formula_weights.IMAGE_SIZES[name]
    state = torch_state(build_backbone(name, (*size, 3)))
    tensors = {key: formula_weights.weight(key, shape) for key, (_, shape) in state.items()}
    classifier = "last_linear" if name == "bn_inception" else "fc"
    tensors[f"{classifier}.weight"] = np.zeros((10, formula_weights.CHANNELS[name]), "float32")
    write_safetensors(path, tensors)


def layer_outputs(name, checkpoint):
    """The output of every convolution and batch normalization, and the last feature map as "features"."""
    backbone = build_backbone(name, (*formula_weights.IMAGE_SIZES[name], 3), weights=checkpoint)
    kinds = (keras.layers.Conv2D, keras.layers.BatchNormalization)
    outputs = {layer.name: layer.output for layer in backbone.layers if isinstance(layer, kinds)}
    outputs["features"] = backbone.output
    values = keras.Model(backbone.input, outputs)(formula_weights.images(name), training=False)
    return {key: np.asarray(value) for key, value in values.items()}


def compare(ours, reference, reduce=lambda values: values):
    """Asserts that every layer agrees, to 1e-4 of the size of its values."""
    assert set(ours) == set(reference)
    for key, expected in reference.items():
        found = reduce(ours[key])
        assert found.shape == expected.shape, key
        scale = np.sqrt(np.mean(np.square(expected, dtype="float64")))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale, err_msg=key)
