"""The benchmarks, from data sets as TensorFlow Datasets prepares them."""

import numpy as np
import pytest
import tiny_datasets
from tiny_pictures import jpeg

from keras_dml.data import DataError, ImagePreprocessing, PKBatches, RandomResizedCrop, load


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    tiny_datasets.cub200(folder)
    tiny_datasets.cars(folder)
    tiny_datasets.online_products(folder)
    tiny_datasets.characters(folder)
    for name in ("real", "sketch"):
        tiny_datasets.domain(folder, name)
    return folder


def picture(seed):
    import tensorflow as tf

    return tf.io.decode_jpeg(jpeg(seed)).numpy()


def test_cub200(data_dir):
    benchmark = load("cub200", data_dir, subset=True)
    assert benchmark.subset
    assert benchmark.train.class_names == ("001.Bird_0", "002.Bird_1", "003.Bird_2")
    assert benchmark.test.class_names == ("101.Bird_100", "102.Bird_101")
    # The original training and test splits are merged: every class has all its images.
    np.testing.assert_array_equal(benchmark.train.labels, np.repeat([0, 1, 2], 4))
    assert benchmark.test.ids[:2] == ("101.Bird_100/Bird_100_0000.jpg", "101.Bird_100/Bird_100_0001.jpg")
    np.testing.assert_array_equal(benchmark.test.image(1), picture(10001))


def test_cub200_cropped(data_dir):
    whole, cropped = load("cub200", data_dir, subset=True), load("cub200_cropped", data_dir, subset=True)
    assert whole.train.ids == cropped.train.ids
    # The box is .2 to .8 of 30 rows and .1 to .9 of 40 columns.
    image, part = cropped.train.image(5).astype(int), whole.train.image(5)[6:24, 4:36].astype(int)
    # Colors of a JPEG are stored at half resolution and interpolated, which ends at the edge of what is decoded.
    np.testing.assert_array_equal(image[1:-1, 1:-1], part[1:-1, 1:-1])
    np.testing.assert_allclose(image, part, atol=16)
    batches = PKBatches(cropped.train, ImagePreprocessing(16), 2, 2, augment=RandomResizedCrop(16))
    images, _ = next(iter(batches.dataset()))
    assert images.shape == (4, 16, 16, 3)


def test_cars196(data_dir):
    benchmark = load("cars196", data_dir, subset=True)
    assert benchmark.train.class_names[0] == "AM General Hummer SUV 2000"
    assert benchmark.train.num_classes == benchmark.test.num_classes == 2
    assert benchmark.test.class_names[1] == "smart fortwo Convertible 2012"
    assert set(benchmark.train.ids[:4]) == {"train/00001", "train/00002", "test/00001", "test/00002"}
    assert load("cars196_cropped", data_dir, subset=True).train.ids == benchmark.train.ids


def test_sop(data_dir):
    benchmark = load("sop", data_dir, subset=True)
    assert benchmark.train.class_names == ("00001", "00002", "00006")
    assert benchmark.test.class_names == ("11319", "11320")
    np.testing.assert_array_equal(benchmark.train.labels, np.repeat([0, 1, 2], 3))
    found = {benchmark.train.image(row).tobytes() for row in range(6, 9)}
    assert found == {picture(seed).tobytes() for seed in (500, 501, 502)}


def test_omniglot(data_dir):
    benchmark = load("omniglot", data_dir, subset=True)
    assert benchmark.train.images.shape == (20, 105, 105, 1)
    assert benchmark.train.class_names[1] == "Alphabet_0/character02"
    assert benchmark.test.class_names == ("Alphabet_2/character01", "Alphabet_2/character02", "Alphabet_3/character01")
    # Black ink on white.
    assert set(np.unique(benchmark.train.images)) == {0, 255}
    assert benchmark.train.images.mean() > 200


def test_domainnet(data_dir):
    benchmark = load("domainnet_sketch", data_dir, subset=True)
    assert benchmark.gallery is None
    assert benchmark.train.class_names == ("aircraft_carrier", "airplane", "alarm_clock")
    assert benchmark.test.num_classes == 2
    assert all(name.startswith("real/") for name in benchmark.train.ids)
    assert all(name.startswith("sketch/") for name in benchmark.test.ids)
    cross = load("domainnet_sketch_to_real", data_dir, subset=True)
    assert cross.gallery.class_names == cross.test.class_names == benchmark.test.class_names
    assert all(name.startswith("real/") for name in cross.gallery.ids)
    with pytest.raises(DataError, match="domainnet/quickdraw/VERSION"):
        load("domainnet_quickdraw", data_dir, subset=True)


@pytest.mark.parametrize("name", ["cub200", "cub200_cropped", "cars196", "sop", "omniglot", "domainnet_sketch"])
def test_other_counts_are_refused_unless_a_subset_is_asked_for(data_dir, name):
    with pytest.raises(DataError, match="subset"):
        load(name, data_dir)


def test_same_data_same_fingerprint(data_dir):
    first, again = (load("cub200", data_dir, subset=True) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != load("cub200_cropped", data_dir, subset=True).fingerprint
    assert first.fingerprint != load("cars196", data_dir, subset=True).fingerprint


def test_batches_read_the_records(data_dir):
    train = load("cars196", data_dir, subset=True).train
    batches = PKBatches(train, ImagePreprocessing(30), 2, 3, seed=3)
    images, labels = next(iter(batches.dataset(first_step=5)))
    rows = batches.rows(5)
    np.testing.assert_array_equal(labels, train.labels[rows])
    for image, row in zip(images, rows, strict=True):
        np.testing.assert_array_equal(image, train.image(row)[:, 5:35])
