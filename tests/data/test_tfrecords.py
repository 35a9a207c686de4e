"""Reading what TensorFlow Datasets has prepared."""

import json

import numpy as np
import pytest
import tiny_datasets
from backend_checks import tensorflow_or_skip

from keras_dml.data import DataError, tfrecords

tf = tensorflow_or_skip()
tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    tiny_datasets.cub200(folder)
    return folder


COLUMNS = ("label", "image/filename", "bbox")


def test_finds_the_data_set_from_any_folder_above_it(data_dir):
    version = data_dir / "caltech_birds2011" / "0.2.0"
    for folder in (data_dir, data_dir / "caltech_birds2011", version):
        assert tfrecords.find_prepared(folder, "caltech_birds2011") == version
    assert tfrecords.find_prepared(data_dir, "cars196") is None
    assert tfrecords.find_prepared(version, "cars196") is None


def test_finds_the_newest_version(tmp_path):
    for version in ("0.9.0", "0.10.0", "notes"):
        folder = tmp_path / "cars196" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text(json.dumps({"name": "cars196"}))
    assert tfrecords.find_prepared(tmp_path, "cars196").name == "0.10.0"


def test_reads_what_tensorflow_datasets_reads(data_dir):
    folder = tfrecords.find_prepared(data_dir, "caltech_birds2011")
    table = tfrecords.read_table(folder, ("train", "test"), COLUMNS)
    theirs = {}
    for split in ("train", "test"):
        for example in tfds.builder_from_directory(folder).as_dataset(split=split).as_numpy_iterator():
            theirs[example["image/filename"].decode()] = (split, example)
    assert sorted(theirs) == sorted(table.columns["image/filename"])
    items = table.images.fetch(np.arange(len(table)))
    for row, name in enumerate(table.columns["image/filename"]):
        split, example = theirs[name]
        assert table.splits[row] == split
        assert table.columns["label"][row] == example["label"]
        np.testing.assert_array_equal(table.images.boxes[row], example["bbox"])
        np.testing.assert_array_equal(tf.io.decode_jpeg(items[row], channels=3), example["image"])


def test_second_use_does_not_read_the_records_again(data_dir, monkeypatch):
    folder = tfrecords.find_prepared(data_dir, "caltech_birds2011")
    first = tfrecords.read_table(folder, ("train",), COLUMNS)

    def fail(*arguments):
        raise AssertionError("read again")

    monkeypatch.setattr(tfrecords, "_index", fail)
    second = tfrecords.read_table(folder, ("train",), COLUMNS)
    np.testing.assert_array_equal(first.columns["label"], second.columns["label"])
    assert list(first.images.fetch(np.arange(3))) == list(second.images.fetch(np.arange(3)))


def test_changed_records_are_read_again(data_dir, tmp_path):
    import os
    import shutil

    copy = tmp_path / "caltech_birds2011" / "0.2.0"
    shutil.copytree(data_dir / "caltech_birds2011" / "0.2.0", copy)
    before = tfrecords.read_table(copy, ("train",), COLUMNS)
    # The test shard takes the place of the training shard.
    shutil.copyfile(next(copy.glob("*-test.*")), next(copy.glob("*-train.*")))
    os.utime(next(copy.glob("*-train.*")), (1, 1))
    after = tfrecords.read_table(copy, ("train",), COLUMNS)
    assert set(before.columns["image/filename"]).isdisjoint(after.columns["image/filename"])


def test_a_cache_that_cannot_be_written_is_done_without(data_dir, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("KERAS_DML_CACHE", str(blocked))
    folder = tfrecords.find_prepared(data_dir, "caltech_birds2011")
    assert len(tfrecords.read_table(folder, ("train",), COLUMNS)) == 10


def test_a_damaged_cache_is_replaced(data_dir, cache):
    folder = tfrecords.find_prepared(data_dir, "caltech_birds2011")
    tfrecords.read_table(folder, ("train",), COLUMNS)
    (path,) = cache.rglob("*.npz")
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:100])
    assert len(tfrecords.read_table(folder, ("train",), COLUMNS)) == 10
    assert path.stat().st_size == size


@pytest.mark.parametrize("keep", [-3, -20, 5])
def test_a_truncated_shard_is_an_error_that_names_it(data_dir, tmp_path, keep):
    import shutil

    copy = tmp_path / "caltech_birds2011" / "0.2.0"
    shutil.copytree(data_dir / "caltech_birds2011" / "0.2.0", copy)
    shard = next(copy.glob("*-train.*"))
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"train\.tfrecord.*cut off"):
        tfrecords.read_table(copy, ("train",), COLUMNS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff" * 100, r"train\.tfrecord.* is no TFRecord file, or cut off at byte 0"),
        # A record of five bytes that are no example.
        (tiny_datasets.record(b"\xff" * 5), r"train\.tfrecord.*record 0: no example, at byte 12"),
    ],
)
def test_a_shard_with_something_else_is_an_error_that_names_it(data_dir, tmp_path, content, message):
    import shutil

    copy = tmp_path / "caltech_birds2011" / "0.2.0"
    shutil.copytree(data_dir / "caltech_birds2011" / "0.2.0", copy)
    next(copy.glob("*-train.*")).write_bytes(content)
    with pytest.raises(DataError, match=message):
        tfrecords.read_table(copy, ("train",), COLUMNS)


@pytest.fixture
def copied(data_dir, tmp_path):
    """A copy of the data set, to be damaged: its one version."""
    import shutil

    return shutil.copytree(data_dir / "caltech_birds2011" / "0.2.0", tmp_path / "caltech_birds2011" / "0.2.0")


@pytest.mark.parametrize("place", ["length", "label", "pixel", "checksum"])
def test_a_flipped_bit_is_an_error_that_names_the_record(copied, place):
    shard = next(copied.glob("*-train.*"))
    content = bytearray(shard.read_bytes())
    second = 16 + int.from_bytes(content[:8], "little")
    size = int.from_bytes(content[second : second + 8], "little")
    at = {
        "length": second,
        "label": content.index(b"label", second) + 10,
        "pixel": content.index(b"\xff\xda", second) + 20,
        "checksum": second + 12 + size,
    }
    content[at[place]] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=rf"train\.tfrecord.*checksum of record 1, at byte {second}, is wrong"):
        tfrecords.read_table(copied, ("train",), COLUMNS)


def test_a_shard_with_fewer_records_than_are_known_is_an_error(copied):
    shard = next(copied.glob("*-train.*"))
    content = shard.read_bytes()
    first = 16 + int.from_bytes(content[:8], "little")
    for kept, count in ((b"", 0), (content[:first], 1)):
        shard.write_bytes(kept)
        with pytest.raises(DataError, match=rf"train\.tfrecord.* holds {count} records; by .* it has 10"):
            tfrecords.read_table(copied, ("train",), COLUMNS)


@pytest.mark.parametrize("fault", ["no shards", "no JSON", "no splits", "other lengths"])
def test_a_newer_version_that_is_not_whole_hides_no_older_one(copied, fault):
    newer = copied.with_name("9.9.9")
    newer.mkdir()
    info = json.loads((copied / "dataset_info.json").read_text())
    content = {
        "no shards": json.dumps(info),
        "no JSON": "{",
        "no splits": json.dumps({**info, "splits": {"train": 1}}),
        "other lengths": json.dumps({**info, "splits": [{"name": "train", "shardLengths": ["many"]}]}),
    }
    (newer / "dataset_info.json").write_text(content[fault])
    with pytest.warns(UserWarning, match=r"0\.2\.0 is read, as newer versions are not whole: .*9\.9\.9"):
        assert tfrecords.find_prepared(copied.parent, "caltech_birds2011") == copied
    (copied / "dataset_info.json").unlink()
    with pytest.raises(DataError, match=r"9\.9\.9"):
        tfrecords.find_prepared(copied.parent, "caltech_birds2011")


@pytest.mark.parametrize("feature", [("bbox", [0.5, 0.1, 0.2, 0.9]), ("bbox", [0.1, 0.1, float("nan"), 0.9])])
def test_a_box_without_an_area_is_an_error(copied, feature):
    shard = next(copied.glob("*-train.*"))
    payload = next(tfrecords._records(shard))[1]
    example = tf.train.Example.FromString(payload)
    name, values = feature
    example.features.feature[name].float_list.value[:] = values
    shard.write_bytes(tiny_datasets.record(example.SerializeToString()))
    with pytest.raises(DataError, match=r"train\.tfrecord.*record 0: 'bbox' .* must lie in the image"):
        tfrecords.read_table(copied, ("train",), COLUMNS)


def test_array_records_are_read(copied, data_dir):
    folder = tfrecords.find_prepared(data_dir, "caltech_birds2011")
    expected = tfrecords.read_table(folder, ("train", "test"), COLUMNS)
    tiny_datasets.as_array_records(copied)
    found = tfrecords.read_table(tfrecords.find_prepared(copied, "caltech_birds2011"), ("train", "test"), COLUMNS)
    for name in COLUMNS:
        np.testing.assert_array_equal(found.columns[name], expected.columns[name])
    rows = np.arange(len(expected))[::-1]
    assert list(found.images.fetch(rows)) == list(expected.images.fetch(rows))
    assert list(found.images.subset(rows[:3]).fetch(np.arange(3))) == list(expected.images.fetch(rows[:3]))
    shard = next(copied.glob("*-train.*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"train\.array_record-00000-of-00001"):
        tfrecords.read_table(copied, ("train",), COLUMNS)


def test_missing_parts_are_named(data_dir, tmp_path):
    import shutil

    copy = tmp_path / "caltech_birds2011" / "0.2.0"
    shutil.copytree(data_dir / "caltech_birds2011" / "0.2.0", copy)
    with pytest.raises(DataError, match="no split 'validation'"):
        tfrecords.read_table(copy, ("validation",), COLUMNS)
    with pytest.raises(DataError, match="no feature 'color'"):
        tfrecords.read_table(copy, ("train",), ("color",))
    next(copy.glob("*-train.*")).unlink()
    with pytest.raises(DataError, match="lacks 1 of 1 shards"):
        tfrecords.read_table(copy, ("train",), COLUMNS)
    info = json.loads((copy / "dataset_info.json").read_text())
    (copy / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "bagz"}))
    with pytest.raises(DataError, match="format 'bagz'; tfrecord and array_record are read"):
        tfrecords.read_table(copy, ("train",), COLUMNS)


def test_a_failed_download_says_what_is_needed(monkeypatch, tmp_path):
    from keras_dml.data.benchmarks import cars196

    def fail(*arguments, **keywords):
        raise OSError("404 Not Found")

    monkeypatch.setattr(tfds, "builder", fail)
    with pytest.raises(DataError) as error:
        tfrecords.download(tmp_path, "cars196", cars196.ARCHIVES, cars196.LAYOUT)
    text = str(error.value)
    assert "404 Not Found" in text
    assert str(tmp_path) in text
    for archive in cars196.ARCHIVES:
        assert archive.name in text
        assert archive.url in text
        assert archive.sha256 in text
    assert "devkit/cars_train_annos.mat" in text


@pytest.mark.parametrize("name", ["cars196", "omniglot", "caltech_birds2011", "stanford_online_products", "domainnet"])
def test_the_real_builders_get_as_far_as_the_network(monkeypatch, tmp_path, name):
    def blocked(*arguments, **keywords):
        raise OSError("no network here")

    for method in ("download", "download_and_extract"):
        monkeypatch.setattr(tfds.download.DownloadManager, method, blocked)
    with pytest.raises(DataError, match="no network here"):
        tfrecords.download(tmp_path, name, (), "", config="real" if name == "domainnet" else None)


def test_known_checksums_are_those_of_tensorflow_datasets():
    from importlib.resources import files

    from keras_dml.data.benchmarks import cars196, cub200, omniglot, stanford_online_products

    root = files("tensorflow_datasets")
    lists = [root / "url_checksums" / f"{name}.txt" for name in ("caltech_birds2011", "cars196", "omniglot")]
    lists.append(root / "datasets" / "stanford_online_products" / "checksums.tsv")
    known = {}
    for path in lists:
        for line in path.read_text().splitlines():
            url, size, sha256, *_ = line.split("\t")
            known[url] = (int(size), sha256)
    for module in (cub200, cars196, omniglot, stanford_online_products):
        for archive in module.ARCHIVES:
            assert known[archive.url] == (archive.size, archive.sha256)


def test_the_index_is_read_again_without_tensorflow(data_dir, monkeypatch):
    version = data_dir / "caltech_birds2011" / "0.2.0"
    expected = tfrecords.read_table(version, ("train",), COLUMNS)

    def missing(name, what):
        raise ImportError(f"{what} needs {name}")

    monkeypatch.setattr(tfrecords, "tensorflow_module", missing)
    found = tfrecords.read_table(version, ("train",), COLUMNS)
    np.testing.assert_array_equal(found.columns["label"], expected.columns["label"])
    monkeypatch.setenv("KERAS_DML_CACHE", "/nowhere/that/exists")
    with pytest.raises(ImportError, match="Reading the records of TensorFlow Datasets needs tensorflow"):
        tfrecords.read_table(version, ("train",), COLUMNS)
