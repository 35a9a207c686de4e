"""The random crop against a plain loop, and its statistics."""

import numpy as np
import pytest
from backend_checks import tensorflow_or_skip
from PIL import Image
from tiny_pictures import encoded, photograph

from keras_dml.data import RandomResizedCrop

tf = tensorflow_or_skip()


def reference(height, width, uniform, scale, ratio):
    """torchvision's procedure, told the random numbers."""
    area, aspect, down, right = uniform[:40].reshape(4, 10)
    for k in range(10):
        target = height * width * (scale[0] + (scale[1] - scale[0]) * area[k])
        r = np.exp(np.log(ratio[0]) + (np.log(ratio[1]) - np.log(ratio[0])) * aspect[k])
        w, h = round(float(np.sqrt(target * r))), round(float(np.sqrt(target / r)))
        if 0 < w <= width and 0 < h <= height:
            return int(down[k] * (height - h + 1)), int(right[k] * (width - w + 1)), h, w
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(30, 40), (40, 30), (8, 8), (5, 300), (300, 5), (1, 1), (1, 50)])
@pytest.mark.parametrize("limits", [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.5, 0.5), (1.0, 1.0)), ((1.0, 1.0), (0.5, 2.0))])
def test_draws_what_torchvisions_procedure_draws(size, limits):
    augment = RandomResizedCrop(8, scale=limits[0], ratio=limits[1])
    draw = tf.function(augment.draw)
    equal = 0
    for number in range(25):
        seed = np.array([7, number], np.int64)
        uniform = tf.random.stateless_uniform([41], seed).numpy()
        window, mirror = draw(tf.constant(size[0]), tf.constant(size[1]), tf.constant(seed))
        expected = reference(*size, uniform, *limits)
        # The last bit of a float may round a side the other way.
        np.testing.assert_allclose(window, expected, atol=1)
        equal += np.array_equal(window, expected)
        assert bool(mirror) == (uniform[40] < 0.5)
        top, left, height, width = window.numpy()
        assert height >= 1
        assert width >= 1
        assert 0 <= top <= size[0] - height
        assert 0 <= left <= size[1] - width
    assert equal >= 24


def test_areas_ratios_and_places_are_spread_over_their_ranges():
    augment = RandomResizedCrop(8)
    draw = tf.function(lambda seed: augment.draw(tf.constant(400), tf.constant(400), seed))
    drawn = [draw(tf.constant([0, number], tf.int64)) for number in range(600)]
    windows = np.array([window.numpy() for window, _ in drawn])
    mirrored = np.mean([mirror.numpy() for _, mirror in drawn])
    areas = windows[:, 2] * windows[:, 3] / 400**2
    ratios = np.log(windows[:, 3] / windows[:, 2])
    assert 0.07 < areas.min() < 0.11
    assert areas.max() > 0.9
    # Large areas with a slanted ratio do not fit and are drawn again, so the mean lies a little below .54.
    assert 0.45 < areas.mean() < 0.55
    assert abs(ratios.mean()) < 0.03
    assert ratios.min() >= np.log(3 / 4) - 0.02
    assert ratios.max() <= np.log(4 / 3) + 0.02
    assert abs(mirrored - 0.5) < 0.07
    centers = windows[:, :2] + windows[:, 2:] / 2
    assert abs(centers.mean() - 200) < 8


def test_same_seed_same_image_other_seed_other_image():
    augment = RandomResizedCrop(16)
    image = np.asarray(photograph(1))
    first, again, other = (augment(image, np.int64([5, k])).numpy() for k in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 255


def test_enlarging_equals_pillow():
    """Whole image, no choice left: the resize itself."""
    augment = RandomResizedCrop(64, scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3), flip=0.0)
    image = photograph(3, 40, 30)
    expected = np.asarray(image.resize((64, 64), Image.BILINEAR), np.float32)
    np.testing.assert_allclose(augment(np.asarray(image), np.int64([0, 0])), expected, atol=1)
    mirrored = RandomResizedCrop(64, scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3), flip=1.0)
    np.testing.assert_allclose(mirrored(np.asarray(image), np.int64([0, 0])), expected[:, ::-1], atol=1)


@pytest.mark.parametrize(("size", "limit"), [((80, 80), 4), ((100, 100), 7), ((160, 160), 5), ((640, 640), 5)])
def test_shrinking_is_close_to_an_antialiased_resize(size, limit):
    """By 1.25 to 10, JPEG and array."""
    augment = RandomResizedCrop(64, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, antialias=False)
    random = np.random.default_rng(0)
    # Detail at every scale, as in photographs.
    image = sum(
        np.asarray(Image.fromarray(random.integers(0, 64, (n, n, 3), dtype=np.uint8)).resize(size, Image.BICUBIC), int)
        for n in (5, 20, 40, 60)
    )
    image = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    expected = np.asarray(image.resize((64, 64), Image.BILINEAR), np.float32)
    from_array = augment(np.asarray(image), np.int64([0, 0])).numpy()
    from_jpeg = augment.decode(tf.constant(encoded(image, quality=98, subsampling=0)), np.int64([0, 0])).numpy()
    assert abs(from_array - expected).mean() < limit
    assert abs(from_jpeg - expected).mean() < limit
    exact = RandomResizedCrop(64, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    np.testing.assert_allclose(exact(np.asarray(image), np.int64([0, 0])), expected, atol=1.5)
    assert (
        abs(
            exact.decode(tf.constant(encoded(image, quality=98, subsampling=0)), np.int64([0, 0])).numpy() - expected
        ).mean()
        < 2
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(40, 30), (37, 301), (500, 490)])
def test_decoding_a_part_equals_cropping_the_whole(channels, size):
    augment = RandomResizedCrop(20, channels=channels)
    content = encoded(photograph(2, *size), quality=95)
    whole = tf.io.decode_jpeg(content, channels=channels)
    for number in range(4):
        seed = np.int64([1, number])
        part = augment.decode(tf.constant(content), seed).numpy()
        full = augment(whole, seed).numpy()
        # Colors at the crop's edge differ; a part decoded at a fraction of its size is up to a pixel off.
        assert abs(part - full).mean() < (10 if max(size) > 400 else 4)
        png = tf.constant(encoded(photograph(2, *size), "PNG"))
        np.testing.assert_array_equal(
            augment.decode(png, seed), augment(tf.io.decode_png(png, channels=channels), seed)
        )


def test_a_box_is_the_image_that_is_cropped():
    image = np.zeros((60, 80, 3), np.uint8)
    image[10:50, 20:60] = 200
    content = tf.constant(encoded(Image.fromarray(image), "PNG"))
    augment = RandomResizedCrop(16)
    for number in range(8):
        inside = augment.decode(content, np.int64([0, number]), tf.constant([10.0, 20.0, 50.0, 60.0]))
        np.testing.assert_allclose(inside, np.full((16, 16, 3), 200), rtol=1e-5)
    outside = [augment.decode(content, np.int64([0, number])).numpy().min() for number in range(8)]
    assert min(outside) == 0


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("shape", [(8, 8, 1), (30, 40, 3), (105, 90, 1), (3, 60, 3)])
def test_a_batch_is_augmented_as_its_images_are(shape, antialias):
    augment = RandomResizedCrop(12, channels=shape[-1], antialias=antialias)
    images = np.random.default_rng(0).integers(0, 256, (40, *shape), dtype=np.uint8)
    together = tf.function(augment.batch)(tf.constant(images), tf.constant([3, 5], tf.int64)).numpy()
    uniform = tf.random.stateless_uniform([40, 41], np.int64([3, 5]))
    windows, mirror = augment._windows(uniform, tf.constant(shape[:2]))
    assert 0.2 < np.mean(mirror) < 0.8
    finish = tf.function(augment._finish, reduce_retracing=True)
    for image, (top, left, height, width), flip, found in zip(images, windows.numpy(), mirror, together, strict=True):
        expected = finish(tf.constant(image[top : top + height, left : left + width]), flip)
        np.testing.assert_allclose(found, expected, atol=0.05)


def test_gray_and_rgb():
    gray, rgb = np.asarray(photograph(0).convert("L"))[..., None], np.asarray(photograph(0))
    assert RandomResizedCrop(8, channels=3)(gray, np.int64([0, 0])).shape == (8, 8, 3)
    assert RandomResizedCrop(8, channels=1)(rgb, np.int64([0, 0])).shape == (8, 8, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"channels": 2},
        {"scale": (0.0, 1.0)},
        {"scale": (0.5, 0.2)},
        {"scale": (0.5, 1.2)},
        {"ratio": (2.0, 1.0)},
        {"flip": 1.5},
    ],
)
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        RandomResizedCrop(**{"size": 8, **wrong})


def test_config_round_trip():
    import json

    augment = RandomResizedCrop(8, 1, (0.2, 0.9), (0.5, 2.0), 0.25)
    assert RandomResizedCrop.from_config(json.loads(json.dumps(augment.to_config()))) == augment
