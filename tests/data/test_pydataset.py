"""Batches as `keras.utils.PyDataset`, which need no TensorFlow: under every backend."""

import gc
import threading

import keras
import numpy as np
import pytest
from backend_checks import TENSORFLOW, needs_tensorflow
from image_kinds import BAD, KINDS
from tiny_pictures import jpeg, photograph, save

from keras_dml.data import DataError, ImagePreprocessing, PKBatches, RandomAffine, RandomResizedCrop, Split, load
from keras_dml.data.array_batches import ArrayBatches
from keras_dml.data.sources import EncodedImages

SIZE = 10
INPUTS = ImagePreprocessing(SIZE)


def arrays(side=12):
    labels = np.repeat(np.arange(4), (5, 3, 2, 8))
    images = np.random.default_rng(0).integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8)
    return Split(images, labels, [f"class {k}" for k in range(4)])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for number in range(24):
        save(folder / str(number % 4) / f"{number}.{'png' if number % 3 else 'jpg'}", number, width=30 + number)
    return load("folder", folder).train


@pytest.fixture
def bad(tmp_path):
    """Two classes with three good images each, and a function that adds a bad one."""
    for name in "abcd":
        for number in range(3):
            save(tmp_path / name / f"{number}.jpg", number)

    def add(content):
        (tmp_path / "a" / "bad.jpg").write_bytes(content)
        return load("folder", tmp_path).train

    return add


def own_augmentation(image, seed):
    return np.zeros((SIZE, SIZE, 3), np.float32) + image.mean() + seed[1] % 7


AUGMENTATIONS = {
    "none": None,
    "crop": RandomResizedCrop(SIZE),
    "affine": RandomAffine(SIZE),
    "own": own_augmentation,
}


def collect(batches, first, count, shard=(0, 1)):
    return list(batches.pydataset(first, count, shard))


def split_of(kind, files):
    if kind == "files":
        return files
    # Large arrays are augmented one image at a time.
    return arrays(side=200 if kind == "large array" else 12)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("kind", ["array", "large array", "files"])
def test_resumed_batches_are_the_same_bit_for_bit(files, kind, augmentation):
    def make(seed=3):
        return PKBatches(split_of(kind, files), INPUTS, 2, 4, seed=seed, augment=AUGMENTATIONS[augmentation])

    straight = collect(make(), 0, 8)
    assert len(straight) == 8
    for (images, labels), (images_again, labels_again) in zip(straight[5:], collect(make(), 5, 3), strict=True):
        assert images.shape == (8, SIZE, SIZE, 3)
        assert images.dtype == np.float32
        assert labels.dtype == np.int32
        assert images.tobytes() == images_again.tobytes()
        assert labels.tobytes() == labels_again.tobytes()
    assert collect(make(seed=4), 0, 1)[0][0].tobytes() != straight[0][0].tobytes()


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("kind", ["array", "large array", "files"])
@pytest.mark.parametrize("processes", [2, 4])
def test_shards_side_by_side_are_the_batch_bit_for_bit(files, kind, augmentation, processes):
    batches = PKBatches(split_of(kind, files), INPUTS, 2, 4, augment=AUGMENTATIONS[augmentation])
    parts = [collect(batches, 3, 2, (process, processes)) for process in range(processes)]
    for number, (images, labels) in enumerate(collect(batches, 3, 2)):
        np.testing.assert_array_equal(np.concatenate([part[number][0] for part in parts]), images)
        np.testing.assert_array_equal(np.concatenate([part[number][1] for part in parts]), labels)


def test_a_process_reads_its_own_images_alone(files, monkeypatch):
    read = []
    genuine = files.source.read
    monkeypatch.setattr(files.source, "read", lambda item: read.append(item) or genuine(item))
    batches = PKBatches(files, INPUTS, 2, 4)
    collect(batches, 7, 1, (1, 2))
    assert sorted(read) == sorted(files.source.fetch(batches.rows(7)[4:]))


def test_wrong_shards():
    batches = PKBatches(arrays(), INPUTS, 2, 3)
    for path in (batches.dataset, batches.pydataset):
        with pytest.raises(ValueError, match=r"of 6 images \(2 classes x 3\) cannot be divided among 4 processes"):
            path(shard=(0, 4))
        for shard in ((2, 2), (-1, 2), (0, 0)):
            with pytest.raises(ValueError, match="0 <= i < n"):
                path(shard=shard)


@needs_tensorflow
@pytest.mark.parametrize("augmentation", ["none", "crop", "affine"])
@pytest.mark.parametrize("kind", ["array", "large array", "files"])
def test_the_batches_are_those_of_tensorflow(files, kind, augmentation):
    batches = PKBatches(split_of(kind, files), INPUTS, 2, 4, augment=AUGMENTATIONS[augmentation])
    for (images, labels), (expected, expected_labels) in zip(
        collect(batches, 2, 3), batches.dataset(2, 3), strict=True
    ):
        np.testing.assert_array_equal(labels, expected_labels)
        # JPEGs are decoded by other decoders, which differ most at the edge of a part.
        np.testing.assert_allclose(images, expected, atol=12 if kind == "files" else 0.02)
        assert abs(images - np.asarray(expected)).mean() < 1


def test_what_dataset_returns_follows_the_backend(files):
    for made in (PKBatches(files, INPUTS, 2, 4).dataset(), files.dataset(INPUTS)):
        assert isinstance(made, ArrayBatches) is not TENSORFLOW


def test_all_images_in_order(files):
    for split in (files, arrays(), Split(EncodedImages([jpeg(0), jpeg(1, 20, 50), jpeg(2)]), [0, 0, 0], ["a"])):
        dataset = split.pydataset(INPUTS, 4)
        batches = list(dataset)
        assert len(batches) == len(dataset) == -(-len(split) // 4)
        images = np.concatenate(batches)
        for row, image in enumerate(images):
            np.testing.assert_array_equal(image, INPUTS.numpy(split.image_numpy(row)))
        # Once more, and from the middle.
        np.testing.assert_array_equal(np.concatenate(list(dataset)), images)
        np.testing.assert_array_equal(dataset[len(dataset) - 1], batches[-1])
        with pytest.raises(IndexError):
            dataset[len(dataset)]
    assert list(files.subset([]).pydataset(INPUTS)) == []


def model(classes):
    layers = [keras.Input((SIZE, SIZE, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(classes)]
    made = keras.Sequential(layers)
    made.compile(keras.optimizers.SGD(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return made


def test_fit_goes_through_the_batches_in_order_from_epoch_to_epoch(files):
    seen = []

    def augment(image, seed):
        seen.append(int(seed[1]))
        return own_augmentation(image, seed)

    batches = PKBatches(files, INPUTS, 2, 2, augment=augment)
    learner = model(files.num_classes)
    learner.fit(batches.pydataset(5), steps_per_epoch=2, epochs=3, verbose=0)
    used = list(range(5 * 4, 11 * 4))
    # TensorFlow's adapter looks at the first batches twice; a few batches are made ahead.
    assert list(dict.fromkeys(sorted(seen)))[: len(used)] == used
    assert max(seen) < (11 + 4) * 4
    assert learner.predict(files.pydataset(INPUTS, 5), verbose=0).shape == (len(files), files.num_classes)


def test_batches_without_an_end(files):
    batches = PKBatches(files, INPUTS, 2, 2).pydataset()
    assert batches.num_batches is None
    assert batches
    with pytest.raises(TypeError, match="no end"):
        len(batches)
    for number, (images, _) in enumerate(batches):
        assert images.shape == (4, SIZE, SIZE, 3)
        if number == 5:
            break


def test_threads_end_with_their_batches(files):
    def running():
        return {thread for thread in threading.enumerate() if thread.name.startswith("keras_dml-batches")}

    before = running()
    batches = PKBatches(files, INPUTS, 2, 2).pydataset()
    batches[0]
    threads = running() - before
    assert threads
    del batches
    gc.collect()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_named_wherever_it_is_reached(bad, name):
    split = bad(BAD[name])
    with pytest.raises(DataError, match=r"'a/bad\.jpg' cannot be read: "):
        split.image_numpy(split.ids.index("a/bad.jpg"))
    with pytest.raises(DataError, match=r"'a/bad\.jpg' cannot be read: .*bad_images=\"skip\""):
        list(split.pydataset(INPUTS))
    for augment in (None, RandomResizedCrop(SIZE)):
        with pytest.raises(DataError, match=r"'a/bad\.jpg' cannot be read: "):
            collect(PKBatches(split, INPUTS, 2, 8, augment=augment), 0, 10)


def test_a_file_that_has_gone_is_named(bad, tmp_path):
    split = bad(jpeg(0))
    (tmp_path / "a" / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"'a/1\.jpg' cannot be read: .*No such file"):
        list(split.pydataset(INPUTS))


def test_an_augmentation_that_fails_or_returns_another_shape_is_named(files):
    def fails(image, seed):
        raise RuntimeError("no")

    with pytest.raises(DataError, match=r"can be decoded, but no encoder input could be made of it"):
        collect(PKBatches(files, INPUTS, 2, 2, augment=fails), 0, 1)
    with pytest.raises(ValueError, match=r"must make inputs of shape \(10, 10, 3\)\. Received: \(9, 9, 3\)"):
        collect(PKBatches(files, INPUTS, 2, 2, augment=lambda image, seed: np.zeros((9, 9, 3))), 0, 1)


def test_all_kinds_go_through_one_pipeline(tmp_path):
    for number, (kind, make) in enumerate(KINDS.items()):
        path = tmp_path / str(number % 4) / f"{kind}.{kind.split()[-1]}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make())
    train = load("folder", tmp_path).train
    for channels in (1, 3):
        inputs = ImagePreprocessing(24, channels=channels)
        batches = PKBatches(train, inputs, 2, 6, augment=RandomResizedCrop(24, channels))
        for images, _ in collect(batches, 0, 3):
            assert images.shape == (12, 24, 24, channels)
            assert images.std(axis=(1, 2, 3)).min() > 5
        for images in train.pydataset(inputs):
            assert images.std(axis=(1, 2, 3)).min() > 5


def test_boxes_are_cut_out(tmp_path):
    from keras_dml.data.sources import FileImages

    paths = [save(tmp_path / f"{number}.png", number) for number in range(3)]
    boxes = np.float32([[5, 5, 15, 15]] * 3)
    split = Split(FileImages(paths, boxes), [0, 0, 0], ["a"])
    (images,) = split.pydataset(INPUTS)
    for number, image in enumerate(images):
        np.testing.assert_array_equal(image, np.asarray(photograph(number))[5:15, 5:15])
