"""JPEGs that a camera has stored on their side: every reader turns them alike."""

import io

import numpy as np
import pytest
from backend_checks import needs_tensorflow
from backends import TENSORFLOW
from PIL import Image, ImageOps
from tiny_pictures import encoded, photograph

from keras_dml.data import ImagePreprocessing, PKBatches, RandomResizedCrop, Split
from keras_dml.data.images import decoding, pillow
from keras_dml.data.images.orientation import orientation, orientation_of, turned_numpy
from keras_dml.data.sources import EncodedImages

ORIENTATIONS = range(1, 9)
PICTURE = photograph(3, 90, 60)


def stored(value, picture=PICTURE, **options):
    """The bytes of a JPEG with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    exif[0x0112] = value
    return encoded(picture, quality=95, exif=exif, **options)


def upright(content):
    """What Pillow shows."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))


def readers():
    found = {"pillow": lambda content: pillow.decode(content)}
    if TENSORFLOW:
        found["tensorflow"] = lambda content: decoding.decode(content).numpy()
    return found


@pytest.mark.parametrize("value", ORIENTATIONS)
@pytest.mark.parametrize("reader", readers())
def test_an_image_is_turned_as_pillow_turns_it(value, reader):
    content = stored(value)
    image = readers()[reader](content)
    assert image.shape == ((90, 60, 3) if value > 4 else (60, 90, 3))
    np.testing.assert_allclose(image.astype(int), upright(content), atol=8)
    assert abs(image.astype(int) - upright(content)).mean() < 1.5


@pytest.mark.parametrize("value", ORIENTATIONS)
@pytest.mark.parametrize("relative", [False, True])
def test_boxes_are_in_pixels_as_stored(value, relative):
    content = stored(value)
    box = np.array([10, 20, 40, 80], np.float32)
    whole = pillow.decode(stored(1))
    part = turned_numpy(whole[10:40, 20:80], value)
    given = box / np.array([60, 90, 60, 90], np.float32) if relative else box
    np.testing.assert_array_equal(pillow.decode(content, 3, given, relative), part)
    if TENSORFLOW:
        image = decoding.decode(content, 3, given, relative).numpy()
        np.testing.assert_allclose(image.astype(int), part, atol=16)


@pytest.mark.parametrize("value", ORIENTATIONS)
@pytest.mark.parametrize("box", [None, (10, 20, 40, 80)])
def test_a_training_crop_is_that_of_the_turned_image(value, box):
    crop = RandomResizedCrop(24, scale=(0.2, 0.6))
    seed = np.array([5, 7])
    where = () if box is None else (np.array(box, np.float32), False)
    expected = crop.numpy(pillow.decode(stored(value), 3, *where), seed)
    made = {"pillow": crop.decode_numpy(stored(value), seed, *where)}
    if TENSORFLOW:
        made["tensorflow"] = crop.decode(stored(value), seed, *where).numpy()
    for image in made.values():
        assert abs(image - expected).mean() < 2


@pytest.mark.parametrize("value", [6, 3])
def test_a_training_crop_of_a_large_image_is_turned(value):
    # Decoded at a fraction of its size.
    content = stored(value, photograph(3, 900, 600))
    crop = RandomResizedCrop(24, scale=(0.9, 1.0), flip=0.0)
    seed = np.array([5, 7])
    expected = crop.numpy(pillow.decode(content), seed)
    assert abs(crop.decode_numpy(content, seed) - expected).mean() < 3
    if TENSORFLOW:
        assert abs(crop.decode(content, seed).numpy() - expected).mean() < 3


@pytest.mark.parametrize("value", ORIENTATIONS)
def test_split_and_batches_turn_images(value):
    split = Split(EncodedImages([stored(value)] * 4), [0, 0, 1, 1], ("a", "b"))
    expected = ImagePreprocessing(32).numpy(upright(stored(value)))
    for images in (split.dataset(ImagePreprocessing(32), 4), split.pydataset(ImagePreprocessing(32), 4)):
        (batch,) = [np.asarray(images) for images in images]
        assert abs(batch - expected).mean() < 2
    np.testing.assert_allclose(split.image(0).astype(int), upright(stored(value)), atol=8)
    batches = PKBatches(split, ImagePreprocessing(32), 2, 2)
    images, _ = next(iter(batches.dataset(steps=1)))
    assert abs(np.asarray(images) - expected).mean() < 2


def test_the_orientation_is_that_of_pillow_in_files_of_every_order():
    for order in (b"II", b"MM"):
        for value in ORIENTATIONS:
            little = order == b"II"
            number = lambda number, size: number.to_bytes(size, "little" if little else "big")  # noqa: B023, E731
            tiff = order + number(42, 2) + number(8, 4) + number(1, 2)
            tiff += number(0x0112, 2) + number(3, 2) + number(1, 4) + number(value, 2) + bytes(2) + bytes(4)
            segment = b"Exif\0\0" + tiff
            segment = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
            plain = encoded(PICTURE)
            # At once, and after the JFIF segment.
            for at in (2, 20):
                content = plain[:at] + segment + plain[at:]
                assert Image.open(io.BytesIO(content)).getexif().get(0x0112) == value
                assert orientation_of(content) == value
                if TENSORFLOW:
                    assert int(orientation(content)) == value


@needs_tensorflow
def test_both_readers_agree_on_damaged_notes():
    random = np.random.default_rng(0)
    good = stored(6)
    start = good.index(b"Exif")
    import tensorflow as tf

    read = tf.function(orientation, input_signature=[tf.TensorSpec((), tf.string)])
    values = set()
    for _ in range(400):
        content = bytearray(good)
        for place in random.integers(start - 4, start + 60, random.integers(1, 4)):
            content[place] = random.integers(256)
        if random.random() < 0.2:
            content = content[: random.integers(0, start + 60)]
        assert int(read(bytes(content))) == orientation_of(bytes(content)) in ORIENTATIONS
        values.add(orientation_of(bytes(content)))
    assert len(values) > 1
    # What is no JPEG is not turned.
    for content in (encoded(PICTURE, "PNG"), b"", b"\xff", b"\xff\xd8", b"Exif\0\0", b"\xff\xd8Exif\0\0II"):
        assert int(read(content)) == orientation_of(content) == 1


def as_chunk(kind, value):
    """The bytes of a lossless file with an EXIF orientation in a chunk of its own."""
    exif = Image.Exif()
    exif[0x0112] = value
    stream = io.BytesIO()
    PICTURE.save(stream, kind, exif=exif, lossless=True)
    return stream.getvalue()


@pytest.mark.parametrize("value", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["PNG", "WebP"])
@pytest.mark.parametrize("reader", readers())
def test_png_and_webp_are_turned_too(value, kind, reader):
    content = as_chunk(kind, value)
    np.testing.assert_array_equal(readers()[reader](content), upright(content))


@pytest.mark.parametrize("value", [1, 5, 6, 8])
@pytest.mark.parametrize("kind", ["PNG", "WebP"])
@pytest.mark.parametrize("box", [None, (10, 20, 40, 80)])
def test_a_training_crop_of_a_png_is_that_of_the_turned_image(value, kind, box):
    crop = RandomResizedCrop(24, scale=(0.2, 0.6))
    seed = np.array([5, 7])
    where = () if box is None else (np.array(box, np.float32), False)
    content = as_chunk(kind, value)
    expected = crop.numpy(pillow.decode(content, 3, *where), seed)
    np.testing.assert_allclose(crop.decode_numpy(content, seed, *where), expected, atol=1)
    if TENSORFLOW:
        np.testing.assert_allclose(crop.decode(content, seed, *where).numpy(), expected, atol=1)


def test_marks_of_exif_in_other_files_mean_nothing():
    """Without a chunk that holds it, or with one that is cut off, an image is as stored."""
    contents = [as_chunk("WebP", 1)[:40], as_chunk("PNG", 6)[:60], b"", b"eXIf", b"RIFF0000WEBPVP8X\0\0\0\0\x08"]
    plain = io.BytesIO()
    PICTURE.save(plain, "WebP", lossless=True)
    for content in [*contents, plain.getvalue(), plain.getvalue() + b"EXIF\0\0\0\0II*\0"]:
        assert orientation_of(content) == 1
        if TENSORFLOW:
            assert orientation(content).numpy() == 1


@pytest.mark.parametrize("value", [1, 6])
@pytest.mark.parametrize("reader", readers())
def test_large_photographs_are_decoded_at_a_fraction(value, reader, monkeypatch):
    monkeypatch.setattr(pillow, "MOST_PIXELS", 2000)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 2000)
    content = stored(value)
    image = readers()[reader](content)
    # 60 x 90 has more than twice, and less than four times as many.
    assert image.shape == ((45, 30, 3) if value == 6 else (30, 45, 3))
    small = Image.fromarray(upright(content)).reduce(2)
    assert abs(image.astype(int) - np.asarray(small)).mean() < 4
    # Boxes are in pixels of the whole.
    assert pillow.decode(content, 3, np.array([0, 0, 20, 30], np.float32)).size == 20 * 30 * 3
