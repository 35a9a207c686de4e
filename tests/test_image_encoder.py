"""An encoder with its preprocessing: what it embeds, and how it is saved."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from tiny_pictures import encoded

import keras_dml as dml
from keras_dml.utils.progress import Progress

SIZE = 8


@pytest.fixture
def image_encoder():
    model = dml.backbones.build("small_conv", embedding_dim=6, input_shape=(SIZE, SIZE, 3))
    return dml.ImageEncoder(model, dml.data.ImagePreprocessing(SIZE), trained_on={"name": "test"})


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 12, 10, 3), np.uint8)


def png(image):
    return encoded(Image.fromarray(image), "PNG")


class Told(Progress):
    def __init__(self):
        self.calls = []

    def advance(self, stage, done, total):
        self.calls.append((stage, done, total))


def test_every_kind_of_image_gives_the_same_embedding(image_encoder, images, tmp_path):
    expected = keras.ops.convert_to_numpy(image_encoder.encoder(image_encoder.preprocessing(images)))
    for row, image in enumerate(images):
        (tmp_path / f"{row}.png").write_bytes(png(image))
    paths = [tmp_path / f"{row}.png" for row in range(len(images))]
    split = dml.data.Split(images, np.zeros(7, np.int32), ("a",))
    mixed = [images[0], str(paths[1]), paths[2], png(images[3]), images[4], images[5], png(images[6])]
    for given in (images, list(images), paths, [png(image) for image in images], split, mixed):
        for batch_size in (2, 64):
            np.testing.assert_allclose(image_encoder.embed(given, batch_size), expected, atol=1e-6)
    np.testing.assert_allclose(image_encoder.embed(images[0]), expected[:1], atol=1e-6)


def test_images_of_different_sizes(image_encoder, images):
    given = [images[0], images[1, :9], images[2, :9], images[3]]
    expected = np.concatenate([image_encoder.embed(image) for image in given])
    np.testing.assert_allclose(image_encoder.embed(given), expected, atol=1e-6)


def test_progress_and_blocks(image_encoder, images):
    told = Told()
    embeddings = image_encoder.embed(images, batch_size=3, progress=told)
    assert told.calls == [("embedding", done, 7) for done in (0, 3, 6, 7)]
    split = dml.data.Split(images, np.arange(7) % 2, ("a", "b"))
    blocks = list(image_encoder.embed_batches(split, batch_size=3, first=2))
    assert [len(block) for block in blocks] == [3, 2]
    np.testing.assert_allclose(np.concatenate(blocks), embeddings[2:], atol=1e-6)


def test_nothing_to_embed(image_encoder, images):
    for none in ([], images[:0]):
        assert image_encoder.embed(none).shape == (0, 6)


def test_what_cannot_be_embedded_is_named(image_encoder, images, tmp_path):
    (tmp_path / "text.png").write_bytes(b"no picture")
    for given, message in (
        ([images[0], tmp_path / "text.png"], r"1: .*text\.png"),
        ([tmp_path / "missing.png"], r"missing\.png"),
        ([png(images[0]), b"no picture"], "1: 10 bytes"),
    ):
        with pytest.raises(dml.data.DataError, match=message):
            image_encoder.embed(given)
    for given, message in (
        ("a.png", "one str"),
        ([None], "NoneType"),
        (images / 255, "uint8"),
        (images[0, 0], "shape"),
        (images, "batch_size"),
    ):
        with pytest.raises(ValueError, match=message):
            image_encoder.embed(given, batch_size=0 if message == "batch_size" else 2)
    broken = image_encoder.encoder.get_weights()
    image_encoder.encoder.set_weights([weight * np.nan for weight in broken])
    with pytest.raises(ValueError, match="image '0' is not finite"):
        image_encoder.embed(images)


def test_encoder_and_preprocessing_must_fit(image_encoder):
    with pytest.raises(ValueError, match=r"\(9, 9, 3\).*\(8, 8, 3\)"):
        dml.ImageEncoder(image_encoder.encoder, dml.data.ImagePreprocessing(9))


def test_round_trip(image_encoder, images, tmp_path):
    unit = dml.layers.PDDMUnit()
    unit.build([(None, 6), (None, 6)])
    encoder = dml.ImageEncoder(image_encoder.encoder, image_encoder.preprocessing, unit, {"seed": 3, "ks": (1, 2)})
    folder = encoder.save(tmp_path / "saved")
    assert sorted(path.name for path in folder.iterdir()) == [
        "encoder.keras",
        "image_encoder.json",
        "pair_scorer.keras",
    ]
    loaded = dml.ImageEncoder.load(folder)
    embeddings = encoder.embed(images)
    np.testing.assert_array_equal(loaded.embed(images), embeddings)
    assert loaded.preprocessing == encoder.preprocessing
    assert dict(loaded.trained_on) == {"seed": 3, "ks": [1, 2]}
    np.testing.assert_array_equal(
        loaded.pair_scorer([embeddings[:3], embeddings[3:6]]), unit([embeddings[:3], embeddings[3:6]])
    )
    # Without a pair scorer, over the one before.
    image_encoder.save(folder)
    assert dml.ImageEncoder.load(folder).pair_scorer is None


def test_it_knows_how_its_embeddings_are_compared(tmp_path):
    def encoder(*layers, metric=None):
        stacked = [keras.layers.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(4), *layers]
        return dml.ImageEncoder(keras.Sequential(stacked), dml.data.ImagePreprocessing(8), metric=metric)

    assert encoder().metric == "euclidean"
    assert encoder(keras.layers.UnitNormalization()).metric == "cosine"
    assert encoder(keras.layers.LayerNormalization(), keras.layers.Activation("tanh")).metric is None
    for one in (encoder(), encoder(metric="cosine")):
        one.save(tmp_path)
        assert dml.ImageEncoder.load(tmp_path).metric == one.metric
    # Saved before there was a choice: its figures are those by cosine.
    encoder().save(tmp_path)
    content = json.loads((tmp_path / "image_encoder.json").read_text())
    del content["metric"]
    (tmp_path / "image_encoder.json").write_text(json.dumps(content))
    assert dml.ImageEncoder.load(tmp_path).metric == "cosine"
    with pytest.raises(ValueError, match=r"metric 'cosin'. Did you mean 'cosine'"):
        encoder(metric="cosin")


def test_a_fresh_process_embeds_alike(image_encoder, images, tmp_path):
    image_encoder.save(tmp_path / "saved")
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np, keras_dml as dml;"
        "folder = sys.argv[1];"
        "images = np.load(folder + '/images.npy');"
        "np.save(folder + '/found.npy', dml.ImageEncoder.load(folder + '/saved').embed(images))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), image_encoder.embed(images), atol=1e-6)


@pytest.mark.parametrize("name", ["encoder.keras", "image_encoder.json"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "gone"])
def test_damaged_files_are_named(image_encoder, tmp_path, name, damage):
    folder = image_encoder.save(tmp_path / "saved")
    content = bytearray((folder / name).read_bytes())
    if damage == "gone":
        (folder / name).unlink()
    elif damage == "flipped":
        # In JSON, a brace.
        content[0 if name.endswith("json") else len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    else:
        (folder / name).write_bytes(content[: 0 if damage == "emptied" else len(content) // 2])
    with pytest.raises((ValueError, OSError), match=name):
        dml.ImageEncoder.load(folder)


def test_another_format_is_refused(image_encoder, tmp_path):
    folder = image_encoder.save(tmp_path / "saved")
    content = json.loads((folder / "image_encoder.json").read_text())
    (folder / "image_encoder.json").write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(ValueError, match=r"image_encoder\.json has another format.*1.*2"):
        dml.ImageEncoder.load(folder)


def test_code_in_a_file_is_not_executed(tmp_path):
    inputs = keras.Input((SIZE, SIZE, 3))
    outputs = keras.layers.Lambda(lambda x: keras.ops.mean(x, axis=(1, 2)))(inputs)
    folder = dml.ImageEncoder(keras.Model(inputs, outputs), dml.data.ImagePreprocessing(SIZE)).save(tmp_path)
    with pytest.raises(ValueError, match=r"encoder\.keras cannot be loaded.*"):
        dml.ImageEncoder.load(folder)


def test_a_failed_save_leaves_what_was_there(image_encoder, images, tmp_path, monkeypatch):
    folder = image_encoder.save(tmp_path / "saved")
    before = image_encoder.embed(images)
    image_encoder.encoder.set_weights([weight * 2 + 1 for weight in image_encoder.encoder.get_weights()])

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        image_encoder.save(folder)
    monkeypatch.undo()
    assert not list(folder.glob(".partial*"))
    np.testing.assert_array_equal(dml.ImageEncoder.load(folder).embed(images), before)
