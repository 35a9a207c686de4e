"""Image layers of Keras as an augmentation: what they draw follows from the seed of an image alone."""

import keras
import numpy as np
import pytest
from backend_checks import TENSORFLOW

from keras_dml.data import ImagePreprocessing, LayerAugmentation, PKBatches, RandomResizedCrop, Split
from keras_dml.data.images.layer_augmentation import image_layer, image_layer_names

SIZE = 16
ARGUMENTS = {
    "AutoContrast": {},
    "CenterCrop": {"height": SIZE, "width": SIZE},
    "RandomBrightness": {"factor": 0.5},
    "RandomColorDegeneration": {"factor": 0.5},
    "RandomColorJitter": {"brightness_factor": 0.5, "hue_factor": 0.2},
    "RandomContrast": {"factor": 0.5},
    "RandomCrop": {"height": SIZE, "width": SIZE},
    "RandomHue": {"factor": 0.5},
    "RandomPerspective": {},
    "RandomPosterization": {"factor": 4},
    "RandomRotation": {"factor": 0.2},
    "RandomSaturation": {"factor": 0.5},
    "RandomSharpness": {"factor": 0.5},
    "RandomShear": {"x_factor": 0.3, "y_factor": 0.3},
    "RandomTranslation": {"height_factor": 0.3, "width_factor": 0.3},
    "RandomZoom": {"height_factor": 0.3},
    "Solarization": {"threshold_factor": 0.5},
    "Resizing": {"height": SIZE, "width": SIZE},
}
# They draw nothing, or, as the crop of an image of that size already, to no effect.
FIXED = (
    *("AutoContrast", "CenterCrop", "ContrastLimitedAdaptiveHistogramEqualization", "Equalization", "Resizing"),
    "RandomCrop",
)


def images(count=4):
    return np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)


def augmentation(name, **arguments):
    layer = image_layer(name, arguments or ARGUMENTS.get(name, {}))
    return LayerAugmentation([layer], ImagePreprocessing(SIZE))


@pytest.mark.parametrize("name", image_layer_names())
def test_what_is_drawn_depends_on_the_seed_alone(name):
    def run(seeds):
        # A new one, in a new graph, as in a training that goes on.
        one = augmentation(name)
        if not TENSORFLOW:
            return np.stack([one(images()[0], np.array(seed)) for seed in seeds])
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((images()[:1].repeat(len(seeds), axis=0), np.array(seeds)))
        return np.stack(list(data.map(one, num_parallel_calls=2).as_numpy_iterator()))

    seeds = [[7, place] for place in range(8)]
    found = run(seeds)
    assert found.shape == (8, SIZE, SIZE, 3)
    np.testing.assert_array_equal(run(seeds), found)
    np.testing.assert_array_equal(run(seeds[::-1])[::-1], found)
    if name not in FIXED:
        assert len(np.unique(found.reshape(8, -1), axis=0)) > 1
    else:
        assert len(np.unique(found.reshape(8, -1), axis=0)) == 1


def test_a_layer_s_own_seed_means_nothing():
    one, other = (
        augmentation("RandomRotation", factor=0.3, seed=seed)(images()[0], np.array([1, 2])) for seed in (0, 1)
    )
    np.testing.assert_array_equal(one, other)


def test_batches_are_a_function_of_seed_and_step():
    split = Split(images(12), np.repeat(np.arange(3), 4), ("a", "b", "c"))
    layers = [keras.layers.RandomFlip(), keras.layers.RandAugment(num_ops=1)]

    def batches(first):
        augment = LayerAugmentation(layers, ImagePreprocessing(SIZE), RandomResizedCrop(SIZE))
        made = PKBatches(split, ImagePreprocessing(SIZE), 2, 2, seed=3, augment=augment)
        if not TENSORFLOW:
            data = made.dataset(first, 3 - first)
            return [data[number][0] for number in range(3 - first)]
        return [pixels for pixels, _ in made.dataset(first, 3 - first).as_numpy_iterator()]

    whole, rest = batches(0), batches(1)
    np.testing.assert_array_equal(whole[1:], rest)
    assert not np.array_equal(whole[0], whole[1])
    assert whole[0].dtype == np.float32
    assert whole[0].min() >= 0
    assert whole[0].max() <= 255


def test_what_is_no_image_layer_is_refused():
    with pytest.raises(ValueError, match=r"must be an image layer of Keras.* Received: GaussianNoise"):
        LayerAugmentation([keras.layers.GaussianNoise(0.1)], ImagePreprocessing(SIZE))
    with pytest.raises(ValueError, match="MixUp mixes images of several classes"):
        LayerAugmentation([keras.layers.MixUp()], ImagePreprocessing(SIZE))
    with pytest.raises(ValueError, match="AugMix draws from Python's random module"):
        LayerAugmentation([keras.layers.AugMix()], ImagePreprocessing(SIZE))
    with pytest.raises(ValueError, match=r"'RandomFlp'\. Did you mean 'RandomFlip'"):
        image_layer("RandomFlp", {})
