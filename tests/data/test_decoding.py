"""Images of every kind, and what is no image."""

import io
import pathlib
import re

import numpy as np
import pytest
import tiny_datasets
from backend_checks import tensorflow_or_skip
from image_kinds import BAD, KINDS, overwritten
from PIL import Image
from tiny_pictures import encoded, photograph

from keras_dml.data import DataError, ImagePreprocessing, PKBatches, RandomResizedCrop, Split, load
from keras_dml.data.images.decoding import decode

tf = tensorflow_or_skip()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_decoded_as_pillow_decodes_it(kind):
    content = KINDS[kind]()
    image = Image.open(io.BytesIO(content))
    if kind == "16 bit png":
        image = photograph(0).convert("L")
    expected = np.asarray(image.convert("RGB"), np.float32)
    found = decode(tf.constant(content), 3).numpy().astype(np.float32)
    assert found.shape == expected.shape
    assert abs(found - expected).mean() < 1.5
    gray = decode(tf.constant(content), 1).numpy()
    assert gray.shape == (*expected.shape[:2], 1)
    np.testing.assert_allclose(gray[..., 0], expected @ [0.299, 0.587, 0.114], atol=6)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_become_white_not_black(mode):
    # Black everywhere, and invisible in the left half: as many drawings are stored.
    image = Image.fromarray(np.zeros((10, 20, 4), np.uint8), "RGBA")
    image.putalpha(Image.fromarray(np.repeat(np.uint8([[0] * 10 + [255] * 10]), 10, axis=0)))
    content = tf.constant(encoded(image.convert(mode), "PNG"))
    for channels in (1, 3):
        found = decode(content, channels).numpy()
        assert (found[:, :10] == 255).all()
        assert (found[:, 10:] == 0).all()


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((3, 5, 20, 30), (3, 5, 17, 25)),
        ((-4, -4, 99, 99), (0, 0, 30, 40)),
        ((7, 8, 7, 8), (7, 8, 1, 1)),
        ((29.6, 40, 30, 41), (29, 39, 1, 1)),
    ],
)
def test_boxes_are_cut_out_and_kept_inside(kind, box, window):
    content = tf.constant(KINDS[kind]())
    top, left, height, width = window
    expected = decode(content).numpy()[top : top + height, left : left + width].astype(int)
    found = decode(content, 3, tf.constant(box, tf.float32)).numpy().astype(int)
    relative = tf.constant(box, tf.float32) / tf.constant([30.0, 40.0, 30.0, 40.0])
    again = decode(content, 3, relative, relative=True).numpy().astype(int)
    np.testing.assert_array_equal(found, again)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=16 if kind == "jpeg" else 0)


@pytest.fixture
def folder(tmp_path):
    """Classes a to d with three good images each."""
    for name in "abcd":
        (tmp_path / name).mkdir()
        for number in range(3):
            photograph(number).save(tmp_path / name / f"{number}.jpg")
    return tmp_path


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_named_wherever_it_is_reached(folder, name):
    (folder / "a" / name).write_bytes(BAD[name])
    train = load("folder", folder).train
    row = train.ids.index(f"a/{name}")
    with pytest.raises(DataError, match=name):
        train.image(row)
    bad = train.verify(workers=2)
    assert [image.id for image in bad] == [f"a/{name}"]
    assert bad[0].row == row
    assert bad[0].reason
    # The names of TensorFlow's ops say nothing to the reader.
    assert not re.search(r"\[Op:|\{\{|name:", bad[0].reason)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"a/{name}"):
        list(train.dataset(ImagePreprocessing(16)))


@pytest.mark.parametrize(
    ("augment", "name"),
    [
        (None, "truncated.jpg"),
        (None, "damaged_header.jpg"),
        (None, "damaged.png"),
        (RandomResizedCrop(16), "damaged_body.jpg"),
    ],
)
def test_training_names_a_bad_image(folder, augment, name):
    (folder / "a" / name).write_bytes(BAD[name])
    train = load("folder", folder).train
    batches = PKBatches(train, ImagePreprocessing(16), 2, 8, augment=augment)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"'a/{name}' cannot be read"):
        for _ in batches.dataset(steps=10):
            pass


def test_training_names_one_of_many_bad_images(folder):
    for number in range(3):
        (folder / "a" / f"{number}.jpg").write_bytes(b"no image")
        (folder / "b" / f"{number}.jpg").write_bytes(b"no image")
    batches = PKBatches(load("folder", folder).train, ImagePreprocessing(16), 2, 2)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"[ab]/\d\.jpg' cannot be read: Unknown image file format"
    ):
        next(iter(batches.dataset()))


def test_an_augmentation_that_fails_names_the_image(folder):
    def augment(image, seed):
        with tf.control_dependencies([tf.debugging.Assert(False, ["no"])]):
            return tf.zeros((16, 16, 3))

    batches = PKBatches(load("folder", folder).train, ImagePreprocessing(16), 2, 2, augment=augment)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"[ab]/\d\.jpg' can be decoded, but"):
        next(iter(batches.dataset()))


def fit(split):
    import keras

    model = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(split.num_classes)])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = PKBatches(split, ImagePreprocessing(16), 2, 8, augment=RandomResizedCrop(16))
    model.fit(batches.dataset(), steps_per_epoch=4, verbose=0)


def test_fit_names_a_bad_file_and_what_to_do(folder):
    (folder / "a" / "3.jpg").write_bytes(BAD["truncated.jpg"])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"'a/3\.jpg' cannot be read") as error:
        fit(load("folder", folder).train)
    assert 'bad_images="skip"' in str(error.value)


def test_fit_names_a_png_with_a_broken_chunk_in_records(tmp_path):
    tiny_datasets.online_products(tmp_path)
    train = load("sop", tmp_path, subset=True).train
    source = train.source

    def replace_image(content):
        # What follows the end of a PNG is ignored.
        assert len(content) < source.lengths[4]
        with open(source.files[source.file_index[4]], "r+b") as file:
            file.seek(source.offsets[4])
            file.write(content.ljust(source.lengths[4], b"\0"))
        tiny_datasets.repair_checksums(pathlib.Path(source.files[source.file_index[4]]))

    good = encoded(photograph(0, 12, 10), "PNG")
    replace_image(good)
    assert train.verify() == []
    replace_image(overwritten(good, good.index(b"IDAT") + 4, 8, 0))
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"'{train.ids[4]}' cannot be read") as error:
        fit(train)
    assert 'bad_images="skip"' in str(error.value)
    with pytest.warns(UserWarning, match=train.ids[4]):
        fit(load("sop", tmp_path, subset=True, bad_images="skip").train)


def test_a_file_that_has_gone_is_named(folder):
    train = load("folder", folder).train
    (folder / "a" / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"a/1\.jpg"):
        train.image(1)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a/1\.jpg.*No such file"):
        list(train.dataset(ImagePreprocessing(16)))


def test_bad_images_are_skipped_on_request_and_named(folder):
    for name in ("truncated.jpg", "text.jpg"):
        (folder / "a" / name).write_bytes(BAD[name])
    (folder / "c" / "empty.jpg").write_bytes(b"")
    whole = load("folder", folder)
    with pytest.warns(UserWarning, match="left out 3 images") as warned:
        benchmark = load("folder", folder, bad_images="skip")
    for name in ("a/truncated.jpg", "a/text.jpg", "c/empty.jpg"):
        assert name in str(warned[0].message)
    assert (len(whole.train), len(benchmark.train)) == (8, 6)
    assert (len(whole.test), len(benchmark.test)) == (7, 6)
    assert benchmark.train.class_names == whole.train.class_names
    assert len(list(benchmark.train.dataset(ImagePreprocessing(16)))) == 1
    with pytest.raises(ValueError, match="bad_images"):
        load("folder", folder, bad_images="ignore")


def test_a_good_jpeg_with_bytes_after_its_end_is_read(folder):
    """Cameras append things; only what cannot be decoded is bad."""
    (folder / "a" / "0.jpg").write_bytes(KINDS["jpeg"]() + b"\0" * 30)
    (folder / "b" / "0.jpg").write_bytes(KINDS["png"]())
    train = load("folder", folder).train
    assert train.verify() == []
    images = np.concatenate([batch.numpy() for batch in train.dataset(ImagePreprocessing(30))])
    expected = decode(tf.constant(KINDS["jpeg"]())).numpy()[:, 5:35]
    np.testing.assert_array_equal(images[0], expected)


def test_all_kinds_go_through_one_pipeline(tmp_path):
    for number, (kind, make) in enumerate(KINDS.items()):
        path = tmp_path / str(number % 4) / f"{kind}.{kind.split()[-1]}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make())
    train = load("folder", tmp_path).train
    for channels in (1, 3):
        batches = PKBatches(
            train, ImagePreprocessing(24, channels=channels), 2, 6, augment=RandomResizedCrop(24, channels)
        )
        for images, _ in batches.dataset(steps=3):
            assert images.shape == (12, 24, 24, channels)
            assert float(tf.reduce_min(tf.math.reduce_std(images, axis=(1, 2, 3)))) > 5
        for images in train.dataset(ImagePreprocessing(24, channels=channels)):
            assert float(tf.reduce_min(tf.math.reduce_std(images, axis=(1, 2, 3)))) > 5


def test_an_array_has_no_bad_images():
    split = Split(np.zeros((2, 4, 4, 1), np.uint8), [0, 1], ["a", "b"])
    assert split.verify() == []
