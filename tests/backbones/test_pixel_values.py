"""Which encoders are told to expect pixel values in [0, 255]."""

import keras
import pytest
from keras import layers

from keras_dml import backbones
from keras_dml.backbones.pixel_values import MODES, expects_bytes, pixel_values


def model(*stack):
    return keras.Sequential([keras.Input((32, 32, 3)), *stack, layers.GlobalAveragePooling2D()])


@pytest.mark.parametrize("name", ["small_conv", "mobilenet_v2", "EfficientNetB0", "ConvNeXtTiny"])
def test_encoders_of_build(name, tmp_path):
    encoder = backbones.build(name, 8, input_shape=(32, 32, 3), normalize=False)
    assert expects_bytes(encoder)
    # Built around, as `build` does with a model, it stays told.
    assert expects_bytes(keras.Sequential([encoder, layers.Dense(4)]))
    if name == "small_conv":
        encoder.save(tmp_path / "encoder.keras")
        assert expects_bytes(keras.saving.load_model(tmp_path / "encoder.keras"))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode):
    inputs = keras.Input((32, 32, 3))
    assert expects_bytes(keras.Model(inputs, pixel_values(inputs, mode))) == (mode != "none")


def test_other_models():
    assert not expects_bytes(model(layers.Conv2D(4, 3)))
    assert not expects_bytes(model(layers.Rescaling(2.0, offset=-1.0)))  # from [0, 1] to [-1, 1]
    assert not expects_bytes(model(layers.Normalization(mean=0.5, variance=0.1)))
    assert expects_bytes(model(layers.Normalization(mean=127.0, variance=4000.0)))
    assert expects_bytes(model(layers.Rescaling(1 / 255)))

    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    assert not expects_bytes(Own())
