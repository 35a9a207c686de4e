"""Decoding, preprocessing and augmentation without TensorFlow: NumPy and Pillow, and their agreement with its ops."""

import io

import numpy as np
import pytest
from backend_checks import TENSORFLOW, needs_tensorflow
from image_kinds import BAD, KINDS
from PIL import Image
from tiny_pictures import encoded, jpeg, photograph

from keras_dml.data import DataError, ImagePreprocessing, RandomAffine, RandomResizedCrop
from keras_dml.data.images import pillow
from keras_dml.data.images.philox import stateless_uniform
from keras_dml.data.images.resampling import resize

SIZES = [(20, 30), (30, 20), (100, 37), (64, 64), (7, 90), (1, 1)]


def seed(*values):
    return np.array(values, np.int64)


def test_known_random_numbers():
    """The first of `tf.random.stateless_uniform([n], (1, 2))`."""
    np.testing.assert_allclose(stateless_uniform(2, seed(1, 2)), [0.8440604, 0.19204533], rtol=1e-6)


@needs_tensorflow
@pytest.mark.parametrize("values", [(0, 0), (1, 2), (-5, 2**40 + 3), (2**62, 7), (-(2**63), -1)])
def test_random_numbers_are_tensorflows(values):
    import tensorflow as tf

    for count in (1, 4, 5, 41, 5000):
        expected = tf.random.stateless_uniform([count], seed(*values)).numpy()
        np.testing.assert_array_equal(stateless_uniform(count, seed(*values)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_decoded(kind):
    content = KINDS[kind]()
    image = photograph(0).convert("L") if kind == "16 bit png" else Image.open(io.BytesIO(content))
    expected = np.asarray(image.convert("RGB"))
    found = pillow.decode(content)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    gray = pillow.decode(content, 1)
    assert gray.dtype == np.uint8
    assert gray.shape == (*expected.shape[:2], 1)
    np.testing.assert_allclose(gray[..., 0], expected @ [0.299, 0.587, 0.114], atol=6)


@needs_tensorflow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_decoders_agree(kind, channels):
    import tensorflow as tf

    from keras_dml.data.images.decoding import decode

    found = pillow.decode(KINDS[kind](), channels).astype(int)
    expected = decode(tf.constant(KINDS[kind]()), channels).numpy().astype(int)
    # What `pillow` promises.
    exact = 1 if kind == "png" and channels == 1 else 0
    np.testing.assert_allclose(found, expected, atol=6 if "jpeg" in kind else exact)
    assert abs(found - expected).mean() < 1.5


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_become_white_not_black(mode):
    image = Image.fromarray(np.zeros((10, 20, 4), np.uint8), "RGBA")
    image.putalpha(Image.fromarray(np.repeat(np.uint8([[0] * 10 + [255] * 10]), 10, axis=0)))
    for channels in (1, 3):
        found = pillow.decode(encoded(image.convert(mode), "PNG"), channels)
        assert (found[:, :10] == 255).all()
        assert (found[:, 10:] == 0).all()


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((3, 5, 20, 30), (3, 5, 17, 25)),
        ((-4, -4, 99, 99), (0, 0, 30, 40)),
        ((7, 8, 7, 8), (7, 8, 1, 1)),
        ((29.6, 40, 30, 41), (29, 39, 1, 1)),
    ],
)
def test_boxes_are_cut_out_and_kept_inside(box, window):
    top, left, height, width = window
    for kind in ("jpeg", "png"):
        content = KINDS[kind]()
        expected = pillow.decode(content)[top : top + height, left : left + width]
        np.testing.assert_array_equal(pillow.decode(content, 3, np.array(box)), expected)
        relative = np.array(box, np.float32) / np.array([30, 40, 30, 40], np.float32)
        np.testing.assert_array_equal(pillow.decode(content, 3, relative, relative=True), expected)


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_with_a_reason(name):
    with pytest.raises(DataError) as error:
        pillow.decode(BAD[name])
    assert 10 < len(str(error.value)) < 120


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(20, 30), (9, 50), (64, 7)])
def test_resize_is_pillows(size, antialias):
    """Pillow's filter is antialiased always, and the plain one where nothing shrinks."""
    image = np.random.default_rng(0).uniform(0, 255, (24, 20)).astype(np.float32)
    if not antialias and min(size) < 24:
        size = (48, 60)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.BILINEAR))
    np.testing.assert_allclose(resize(image[None, ..., None], size, antialias)[0, ..., 0], expected, atol=1e-3)


@needs_tensorflow
@pytest.mark.parametrize("antialias", [False, True])
def test_resize_is_tensorflows(antialias):
    import tensorflow as tf

    images = np.random.default_rng(0).integers(0, 256, (2, 24, 20, 3), dtype=np.uint8)
    for size in [(20, 30), (9, 50), (64, 7), (1, 1), (24, 20)]:
        expected = tf.image.resize(images, size, antialias=antialias)
        np.testing.assert_allclose(resize(images, size, antialias), expected, atol=1e-3)


@needs_tensorflow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize_to", [24, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_agrees(size, resize_to, channels):
    image = np.asarray(photograph(0, *size))
    preprocessing = ImagePreprocessing(24, resize_to, channels)
    found = preprocessing.numpy(image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, preprocessing(image), atol=0.01)
    floats = np.stack([image, 255 - image]).astype(np.float32)
    np.testing.assert_allclose(preprocessing.numpy(floats), preprocessing(floats), atol=0.01)


def test_preprocessing_of_a_batch_is_that_of_its_images_bit_for_bit():
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), dtype=np.uint8)
    for preprocessing in (ImagePreprocessing(16), ImagePreprocessing(50, 60), ImagePreprocessing(16, 20, channels=1)):
        together = preprocessing.numpy(images)
        for image, expected in zip(images, together, strict=True):
            np.testing.assert_array_equal(preprocessing.numpy(image), expected)


def test_arrays_come_out_under_other_backends():
    image = np.asarray(photograph(0))
    for made in (
        ImagePreprocessing(8)(image),
        RandomResizedCrop(8)(image, seed(0, 1)),
        RandomAffine(8)(image, seed(0, 1)),
    ):
        assert isinstance(made, np.ndarray) is not TENSORFLOW
        assert made.shape == (8, 8, 3)
        assert made.dtype == "float32"


@needs_tensorflow
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_agree(antialias, channels):
    import tensorflow as tf

    augment = RandomResizedCrop(24, channels, antialias=antialias)
    for number in range(12):
        for size in [*SIZES, (500, 375)]:
            image = np.asarray(photograph(number, *size))
            window, mirror = augment.draw(tf.constant(size[1]), tf.constant(size[0]), seed(5, number))
            found = augment.draw_numpy(size[1], size[0], seed(5, number))
            np.testing.assert_array_equal(found[0], window)
            assert found[1] == bool(mirror)
            expected = augment(image, seed(5, number))
            np.testing.assert_allclose(augment.numpy(image, seed(5, number)), expected, atol=0.01)
            png = encoded(Image.fromarray(image), "PNG")
            # A gray value may be rounded the other way before it is resized; Pillow rounds after each axis.
            np.testing.assert_allclose(augment.decode_numpy(png, seed(5, number)), expected, atol=2)


@needs_tensorflow
@pytest.mark.parametrize("size", [(40, 30), (500, 375), (900, 1200)])
def test_crops_of_jpegs_agree(size):
    """Large ones are decoded at a fraction of their size by both."""
    import tensorflow as tf

    augment = RandomResizedCrop(24)
    for number in range(8):
        content = jpeg(number, *size)
        box = np.float32([0.1, 0.2, 0.9, 0.8])
        for where in ((), (box, True)):
            expected = augment.decode(tf.constant(content), seed(5, number), *where)
            found = augment.decode_numpy(content, seed(5, number), *where)
            assert abs(found - np.asarray(expected)).mean() < 2


@needs_tensorflow
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [4, 10, 20])
def test_crops_of_a_batch_agree(size, antialias):
    images = np.random.default_rng(0).integers(0, 256, (16, 12, 9, 3), dtype=np.uint8)
    augment = RandomResizedCrop(size, antialias=antialias)
    np.testing.assert_allclose(augment.batch_numpy(images, seed(1, 2)), augment.batch(images, seed(1, 2)), atol=0.01)


@needs_tensorflow
@pytest.mark.parametrize("size", [(24, 24), (20, 30), (100, 37)])
def test_affine_maps_agree(size):
    for channels in (1, 3):
        affine = RandomAffine(24, channels, degrees=40, stretch=0.5, shift=0.3, fill=20.0)
        for number in range(12):
            image = np.asarray(photograph(number, *size))
            np.testing.assert_allclose(affine.numpy(image, seed(5, number)), affine(image, seed(5, number)), atol=0.02)


def test_a_batch_of_affine_maps_is_that_of_its_images_bit_for_bit():
    affine = RandomAffine(24, 1)
    images = np.random.default_rng(0).integers(0, 256, (5, 30, 20, 3), dtype=np.uint8)
    seeds = np.stack([seed(5, number) for number in range(5)])
    for image, own, expected in zip(images, seeds, affine.numpy(images, seeds), strict=True):
        np.testing.assert_array_equal(affine.numpy(image, own), expected)


def test_random_numbers_of_many_seeds():
    seeds = np.array([[[0, 1], [2, -3]], [[2**40, 5], [0, 0]]])
    together = stateless_uniform(7, seeds)
    assert together.shape == (2, 2, 7)
    for place in np.ndindex(2, 2):
        np.testing.assert_array_equal(stateless_uniform(7, seeds[place]), together[place])
