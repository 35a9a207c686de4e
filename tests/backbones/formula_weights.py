"""Weights and images by formula, so that two frameworks can be compared without a weights file."""

import zlib

import numpy as np

# Odd sides tell rounding and padding apart; BN-Inception takes multiples of 32 only.
IMAGE_SIZES = {"resnet50": (75, 97), "googlenet": (75, 97), "bn_inception": (64, 96)}
CHANNELS = {"resnet50": 2048, "googlenet": 1024, "bn_inception": 1024}


def _uniform(name, shape):
    """In [-1, 1), by the name alone."""
    return 2 * np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).random(shape) - 1


def weight(name, shape):
    """The value of a weight, by PyTorch's name of it and in PyTorch's layout."""
    values = _uniform(name, shape)
    if len(shape) == 4:
        values = values * np.sqrt(6 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        values = 1 + 0.5 * values
    elif name.endswith("weight"):
        values = 1 + 0.2 * values
    else:
        values = 0.2 * values
    return values.astype("float32")


def images(name):
    """Two RGB images in [0, 255]."""
    return np.round(127.5 * (1 + _uniform(f"{name} images", (2, *IMAGE_SIZES[name], 3)))).astype("float32")


def sample(values):
    """At most 12 of the values, evenly spread, and their root mean square."""
    flat = np.asarray(values, "float64").ravel()
    places = np.linspace(0, flat.size - 1, 12).astype(int)
    return np.append(flat[places], np.sqrt(np.mean(flat**2))).astype("float32")
