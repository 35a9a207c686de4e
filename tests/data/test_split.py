"""Splits, preprocessing and names."""

import json

import numpy as np
import pytest
from backend_checks import needs_tensorflow
from tiny_pictures import photograph, save

from keras_dml.data import Benchmark, ImagePreprocessing, Split, load


def arrays(count=6, classes=3, shape=(8, 10, 1)):
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    return Split(images, np.arange(count) % classes, [f"class {k}" for k in range(classes)])


@pytest.fixture
def files(tmp_path):
    paths = [save(tmp_path / f"{number}.png", number, width=20 + number) for number in range(6)]
    return Split(paths, [0, 1, 2, 0, 1, 2], ["a", "b", "c"])


def test_digits():
    benchmark = load("digits")
    assert (len(benchmark.train), len(benchmark.test)) == (901, 896)
    assert benchmark.train.image(3).shape == (8, 8, 1)
    with pytest.warns(UserWarning, match="the data folder /somewhere is ignored"):
        assert load("digits", "/somewhere").fingerprint == benchmark.fingerprint
    with pytest.warns(UserWarning, match="subset is ignored"):
        assert not load("digits", subset=True).subset


def test_images_by_row_and_in_order(files):
    for number in range(6):
        np.testing.assert_array_equal(files.image(number), np.asarray(photograph(number, width=20 + number)))
    assert [image.shape[1] for image in files] == [20, 21, 22, 23, 24, 25]
    preprocessing = ImagePreprocessing(16)
    for split in (files, arrays()):
        batches = list(split.dataset(preprocessing, 4))
        assert [len(batch) for batch in batches] == [4, 2]
        images = np.concatenate(batches)
        for row in range(6):
            np.testing.assert_allclose(images[row], preprocessing(split.image(row)), atol=1e-3)


def test_subset_renumbers_or_keeps(files):
    some = files.subset([5, 1, 2])
    assert list(some.labels) == [1, 0, 1]
    assert some.class_names == ("b", "c")
    assert some.ids == tuple(files.ids[row] for row in (5, 1, 2))
    np.testing.assert_array_equal(some.image(0), files.image(5))
    kept = files.subset([5, 1, 2], renumber=False)
    assert list(kept.labels) == [2, 1, 2]
    assert kept.class_names == files.class_names
    assert len(arrays().subset([])) == 0


def test_wrong_arguments():
    images = np.zeros((2, 4, 4, 1), np.uint8)
    with pytest.raises(ValueError, match="uint8"):
        Split(images.astype(np.float32), [0, 1], ["a", "b"])
    with pytest.raises(ValueError, match="shape"):
        Split(images[..., 0], [0, 1], ["a", "b"])
    with pytest.raises(ValueError, match="equally many"):
        Split(images, [0], ["a"])
    with pytest.raises(ValueError, match="Labels must lie"):
        Split(images, [0, 2], ["a", "b"])
    for labels in ([0.7, 1.2], [[0], [1]], ["a", "b"], [True, False], 0):
        with pytest.raises(ValueError, match=r"Labels must be \(n,\) integers"):
            Split(images, labels, ["a", "b"])
    with pytest.raises(ValueError, match="labels from 0 to 4294967296"):
        Split(images, [0, 2**32], ["a", "b"])
    with pytest.raises(ValueError, match="'x'"):
        Split(images, [0, 1], ["a", "b"], ["x", "x"])


def test_fingerprints_tell_data_apart(files, tmp_path):
    split = arrays()
    assert split.fingerprint == arrays().fingerprint
    changed = split.images.copy()
    changed[0, 0, 0] ^= 1
    assert Split(changed, split.labels, split.class_names).fingerprint != split.fingerprint
    assert Split(split.images, split.labels[::-1], split.class_names).fingerprint != split.fingerprint
    before = files.fingerprint
    save(tmp_path / "0.png", 99, width=60)
    assert files.fingerprint != before


def test_benchmark_sides_are_disjoint():
    with pytest.raises(ValueError, match=r"disjoint.*class 0"):
        Benchmark("x", arrays(), arrays())
    other = Split(np.zeros((1, 4, 4, 1), np.uint8), [0], ["y"])
    with pytest.raises(ValueError, match="alike"):
        Benchmark("x", arrays(), other, Split(np.zeros((1, 4, 4, 1), np.uint8), [0], ["z"]))


def test_unknown_benchmark_names_the_nearest_first():
    with pytest.raises(ValueError, match=r"'cub20'\. Did you mean 'cub200'\?"):
        load("cub20")


@needs_tensorflow
@pytest.mark.parametrize("size", [(20, 30), (30, 20), (100, 37), (64, 64), (7, 90), (1, 1)])
@pytest.mark.parametrize("resize", [24, 32])
def test_preprocessing_is_resize_then_centre_crop(size, resize):
    """Against TensorFlow's own antialiased resize of the whole image."""
    import tensorflow as tf

    image = np.asarray(photograph(0, *size))
    height, width = image.shape[:2]
    short = min(height, width)
    target = (max(resize * height // short, resize), max(resize * width // short, resize))
    whole = tf.image.resize(image, target, antialias=True).numpy()
    top, left = (round((side - 24) / 2.0) for side in target)
    expected = whole[top : top + 24, left : left + 24]
    preprocessing = ImagePreprocessing(24, resize)
    np.testing.assert_allclose(preprocessing(image), expected, atol=0.02)
    unknown = tf.function(preprocessing, input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)])
    np.testing.assert_allclose(unknown(image), expected, atol=0.02)
    batch = tf.function(preprocessing, input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
    np.testing.assert_allclose(batch(np.stack([image, 255 - image]).astype(np.float32))[0], expected, atol=0.02)


@pytest.mark.parametrize("room", range(9))
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("backend", [pytest.param("tensorflow", marks=needs_tensorflow), "numpy"])
def test_center_crops_begin_where_those_of_torchvision_do(room, axis, backend):
    size = 8
    shape = [size, size]
    shape[axis] += room
    # Every pixel tells its place; the short side is the encoder's, so nothing is resized.
    image = np.arange(shape[axis], dtype=np.uint8)[:, None, None] * np.ones((1, size, 1), np.uint8)
    image = np.moveaxis(image, 0, axis)
    preprocessing = ImagePreprocessing(size, channels=1)
    found = np.asarray(preprocessing(image) if backend == "tensorflow" else preprocessing.numpy(image))
    assert found.min() == round(room / 2.0)
    assert found.max() == round(room / 2.0) + size - 1


def test_preprocessing_of_a_batch_is_that_of_its_images():
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), dtype=np.uint8)
    for preprocessing in (ImagePreprocessing(16), ImagePreprocessing(50, 60), ImagePreprocessing(16, 20, channels=1)):
        together = np.asarray(preprocessing(images))
        for image, expected in zip(images, together, strict=True):
            np.testing.assert_allclose(preprocessing(image), expected, atol=1e-3)


def test_gray_survives_the_way_to_rgb_and_back():
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    rgb = ImagePreprocessing(16, channels=3)(gray)
    assert rgb.shape == (16, 16, 3)
    np.testing.assert_allclose(ImagePreprocessing(16, channels=1)(rgb), gray, atol=1e-3)


def test_preprocessing_arguments_and_config():
    with pytest.raises(ValueError, match="size=0"):
        ImagePreprocessing(0)
    with pytest.raises(ValueError, match="resize=4"):
        ImagePreprocessing(8, 4)
    with pytest.raises(ValueError, match="channels=2"):
        ImagePreprocessing(8, channels=2)
    preprocessing = ImagePreprocessing(8, 10, 1)
    assert ImagePreprocessing.from_config(json.loads(json.dumps(preprocessing.to_config()))) == preprocessing
