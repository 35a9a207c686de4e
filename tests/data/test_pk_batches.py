"""P x K batches."""

import warnings

import keras
import numpy as np
import pytest
from backend_checks import TENSORFLOW, needs_tensorflow
from tiny_pictures import save

from keras_dml import data
from keras_dml.data import ImagePreprocessing, PKBatches, RandomAffine, RandomResizedCrop, Split, load


def arrays(counts=(5, 3, 1, 0, 8), side=12):
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8)
    order = np.random.default_rng(1).permutation(len(labels))
    return Split(images[order], labels[order], [f"class {k}" for k in range(len(counts))])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for number in range(24):
        save(folder / str(number % 4) / f"{number}.{'png' if number % 3 else 'jpg'}", number, width=30 + number)
    return load("folder", folder).train


@pytest.mark.parametrize("replacement", [True, False])
def test_a_batch_is_p_classes_of_k_images(replacement):
    split = arrays()
    batches = PKBatches(split, ImagePreprocessing(12), 3, 4, seed=1, replacement=replacement)
    assert batches.batch_size == 12
    assert batches.steps_per_epoch == 1
    for step in range(30):
        rows = batches.rows(step).reshape(3, 4)
        labels = split.labels[rows]
        assert (labels == labels[:, :1]).all()
        assert 3 not in labels
        if not replacement:
            assert len(set(labels[:, 0])) == 3
            for group, label in zip(rows, labels[:, 0], strict=True):
                # Classes 0 and 4 have 4 images and more; the smaller ones must repeat theirs.
                if label in (0, 4):
                    assert len(set(group)) == 4


def test_with_replacement_classes_and_images_repeat_and_are_uniform():
    split = arrays((5, 3, 1, 8))
    batches = PKBatches(split, ImagePreprocessing(12), 4, 2, seed=0)
    rows = np.stack([batches.rows(step) for step in range(1500)])
    labels = split.labels[rows]
    drawn = np.bincount(labels[:, ::2].ravel(), minlength=4) / (1500 * 4)
    np.testing.assert_allclose(drawn, 0.25, atol=0.03)
    assert any(len(set(row[::2])) < 4 for row in labels[:20])
    of_class = rows[labels == 3]
    np.testing.assert_allclose(np.unique(of_class, return_counts=True)[1] / len(of_class), 1 / 8, atol=0.02)


def test_steps_per_epoch_is_images_over_batch():
    assert PKBatches(arrays((40, 30)), ImagePreprocessing(12), 2, 10).steps_per_epoch == 3
    assert PKBatches(arrays((4, 3)), ImagePreprocessing(12), 2, 10).steps_per_epoch == 1


def collect(batches, first, count):
    return [(np.asarray(images), np.asarray(labels)) for images, labels in batches.dataset(first, count)]


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("kind", ["array", "files"])
def test_resumed_batches_are_the_same_bit_for_bit(files, kind, augmented):
    split = files if kind == "files" else arrays()
    augment = RandomResizedCrop(10) if augmented else None

    def make(seed=3):
        return PKBatches(split, ImagePreprocessing(10), 2, 4, seed=seed, augment=augment)

    straight = collect(make(), 0, 8)
    resumed = collect(make(), 5, 3)
    for (images, labels), (images_again, labels_again) in zip(straight[5:], resumed, strict=True):
        assert images.tobytes() == images_again.tobytes()
        assert labels.tobytes() == labels_again.tobytes()
    other = collect(make(seed=4), 0, 1)[0]
    assert other[0].tobytes() != straight[0][0].tobytes()
    assert straight[0][0].tobytes() != straight[1][0].tobytes()


def test_the_global_seed_changes_nothing(files):
    results = []
    for seed in (1, 2):
        # Of Python, NumPy and the backend.
        keras.utils.set_random_seed(seed)
        batches = PKBatches(files, ImagePreprocessing(10), 2, 4, augment=RandomResizedCrop(10))
        results.append(collect(batches, 2, 1)[0][0].tobytes())
    assert results[0] == results[1]


def test_batches_hold_the_rows_they_say(files):
    for split in (files, arrays()):
        preprocessing = ImagePreprocessing(10)
        batches = PKBatches(split, preprocessing, 2, 3, seed=9)
        images, labels = collect(batches, 4, 1)[0]
        rows = batches.rows(4)
        np.testing.assert_array_equal(labels, split.labels[rows])
        assert labels.dtype == np.int32
        for image, row in zip(images, rows, strict=True):
            np.testing.assert_allclose(image, preprocessing(split.image(row)), atol=1e-3)


def test_augmented_batches_are_the_augmentation_of_their_seeds(files):
    augment = RandomResizedCrop(24)
    # Large arrays are treated one image at a time, as files are.
    for split in (files, arrays(side=200)):
        batches = PKBatches(split, ImagePreprocessing(24), 2, 3, seed=9, augment=augment)
        assert not batches._by_batch
        images, _ = collect(batches, 4, 1)[0]
        for image, row, seed in zip(images, batches.rows(4), batches.seeds(4), strict=True):
            assert abs(image - np.asarray(augment(split.image(row), seed))).mean() < 3


def test_small_arrays_are_augmented_a_batch_at_a_time():
    split, augment = arrays(), RandomResizedCrop(10)
    batches = PKBatches(split, ImagePreprocessing(10), 2, 3, seed=9, augment=augment)
    images, labels = collect(batches, 4, 1)[0]
    rows = batches.rows(4)
    augment_batch = augment.batch if TENSORFLOW else augment.batch_numpy
    expected = augment_batch(split.images[rows], batches.seeds(4)[0])
    np.testing.assert_allclose(images, expected, atol=1e-3)
    np.testing.assert_array_equal(labels, split.labels[rows])


def test_seeds_are_distinct_over_images_steps_and_runs():
    batches = [PKBatches(arrays(), ImagePreprocessing(12), 2, 4, seed=seed) for seed in (0, 1, 2**40)]
    seeds = np.concatenate([each.seeds(step) for each in batches for step in range(50)])
    assert len(np.unique(seeds, axis=0)) == 3 * 50 * 8
    assert collect(batches[2], 0, 1)[0][0].shape == (8, 12, 12, 3)


def test_any_callable_augments(files):
    def augment(image, seed):
        gray = keras.ops.cast(seed[1] % 7, "float32")
        return keras.ops.zeros((10, 10, 3)) + gray

    batches = PKBatches(files, ImagePreprocessing(10), 2, 3, augment=augment)
    images, _ = collect(batches, 1, 1)[0]
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(6, 12) % 7)


def test_wrong_arguments():
    preprocessing = ImagePreprocessing(12)
    with pytest.raises(ValueError, match="classes_per_batch=0"):
        PKBatches(arrays(), preprocessing, 0, 2)
    with pytest.raises(ValueError, match="images_per_class=-1"):
        PKBatches(arrays(), preprocessing, 2, -1)
    with pytest.raises(ValueError, match="seed=-1"):
        PKBatches(arrays(), preprocessing, 2, 2, seed=-1)
    with pytest.raises(ValueError, match="two classes"):
        PKBatches(arrays((5,)), preprocessing, 2, 2)
    with pytest.raises(ValueError, match="two classes"):
        PKBatches(arrays((5, 0)), preprocessing, 2, 2)
    with pytest.raises(ValueError, match="5 distinct classes"):
        PKBatches(arrays(), preprocessing, 5, 2, replacement=False)


@needs_tensorflow
def test_no_dataset_of_batches_waits_for_the_autotuner(files):
    inputs = ImagePreprocessing(8)
    for split in (arrays(), files):
        for dataset in (PKBatches(split, inputs, 2, 2).dataset(), split.dataset(inputs)):
            assert dataset.options().autotune.enabled is False


def test_more_classes_than_there_are_repeat_with_a_warning():
    with pytest.warns(UserWarning, match=r"draws 6 with replacement, and there are 4 with images"):
        batches = PKBatches(arrays(), ImagePreprocessing(12), 6, 2)
    assert len(batches.rows(0)) == 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PKBatches(arrays(), ImagePreprocessing(12), 4, 2)


def test_the_old_name():
    with pytest.warns(DeprecationWarning, match=r"ClassBatches is now called keras_dml\.data\.PKBatches"):
        assert data.ClassBatches is PKBatches
    with pytest.raises(AttributeError, match="no attribute 'Classbatches'"):
        _ = data.Classbatches


@pytest.mark.parametrize("augment", [None, RandomResizedCrop(10), RandomAffine(10)])
@pytest.mark.parametrize("kind", ["array", "large array", "files"])
@pytest.mark.parametrize("processes", [2, 4])
def test_shards_side_by_side_are_the_batch_bit_for_bit(files, kind, augment, processes):
    split = files if kind == "files" else arrays(side=200 if kind == "large array" else 12)
    batches = PKBatches(split, ImagePreprocessing(10), 2, 4, augment=augment)
    parts = [list(batches.dataset(3, 2, (process, processes))) for process in range(processes)]
    for number, (images, labels) in enumerate(batches.dataset(3, 2)):
        assert np.concatenate([part[number][0] for part in parts]).tobytes() == np.asarray(images).tobytes()
        assert np.concatenate([part[number][1] for part in parts]).tobytes() == np.asarray(labels).tobytes()


def test_a_process_fetches_its_own_images_alone(files, monkeypatch):
    fetched = []
    genuine = files.source.fetch
    monkeypatch.setattr(files.source, "fetch", lambda rows: fetched.extend(rows) or genuine(rows))
    batches = PKBatches(files, ImagePreprocessing(10), 2, 4)
    list(batches.dataset(7, 1, (1, 2)))
    assert sorted(fetched) == sorted(batches.rows(7)[4:])
