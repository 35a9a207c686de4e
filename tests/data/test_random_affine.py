import math

import keras
import numpy as np
import pytest
from backend_checks import uniform

from keras_dml.data import RandomAffine


def image(size=7, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, channels), np.uint8)


def naive(source, affine, seed):
    """Samples the source pixel by pixel at the place each output pixel comes from."""
    size = affine.size
    draw = uniform(5, seed, -1.0, 1.0).astype(float)
    angle = draw[0] * math.radians(affine.degrees)
    stretch_x, stretch_y = (math.exp(d * math.log1p(affine.stretch)) for d in draw[1:3])
    shift_x, shift_y = draw[3:5] * affine.shift * size
    center = (size - 1) / 2
    result = np.zeros((size, size, source.shape[-1]))

    def pixel(y, x):
        if 0 <= y < size and 0 <= x < size:
            return source[y, x].astype(float)
        return np.full(source.shape[-1], affine.fill)

    for y in range(size):
        for x in range(size):
            across, down = x - center, y - center
            from_x = stretch_x * (math.cos(angle) * across - math.sin(angle) * down) + center + shift_x
            from_y = stretch_y * (math.sin(angle) * across + math.cos(angle) * down) + center + shift_y
            left, top = math.floor(from_x), math.floor(from_y)
            for yy, weight_y in ((top, top + 1 - from_y), (top + 1, from_y - top)):
                for xx, weight_x in ((left, left + 1 - from_x), (left + 1, from_x - left)):
                    result[y, x] += weight_y * weight_x * pixel(yy, xx)
    return result


@pytest.mark.parametrize("seed", [(0, 1), (5, 2), (2**31 - 1, 9)])
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_sampling_pixel_by_pixel(seed, channels):
    affine = RandomAffine(7, channels, degrees=40, stretch=0.5, shift=0.3, fill=20.0)
    source = image(channels=channels)
    np.testing.assert_allclose(affine(source, seed), naive(source, affine, seed), atol=0.05)


def test_nothing_allowed_changes_nothing():
    affine = RandomAffine(7, 1, degrees=0, stretch=0, shift=0)
    np.testing.assert_array_equal(np.asarray(affine(image(), (3, 4))), image().astype("float32"))


def test_depends_on_the_seed_alone():
    affine = RandomAffine(7, 1)
    keras.utils.set_random_seed(1)
    first = np.asarray(affine(image(), (3, 4)))
    keras.utils.set_random_seed(2)
    np.testing.assert_array_equal(first, np.asarray(affine(image(), (3, 4))))
    assert not np.array_equal(first, affine(image(), (3, 5)))


def test_other_sizes_and_channels():
    assert RandomAffine(5, 3)(image(9, 1), (0, 0)).shape == (5, 5, 3)


@pytest.mark.parametrize("wrong", [{"degrees": -1}, {"stretch": -1}, {"shift": -1}, {"size": 0}, {"channels": 2}])
def test_wrong_arguments(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        RandomAffine(**{"size": 5, **wrong})
