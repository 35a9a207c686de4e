"""The exported model against the Python side: images, embeddings, the twin, fresh processes, a moved folder."""

import io
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from export_helpers import assert_neighbors, clustered, run_python
from PIL import Image, ImageOps

import export
from export.index.engine import kinds
from export.index.spec import largest_value
from keras_dml.data import ImagePreprocessing
from keras_dml.data.images.decoding import decode

PREPROCESSING = ImagePreprocessing(16, channels=1)


@pytest.fixture(scope="module")
def expected(run_folder, digits):
    """Embeddings of the gallery by the Python side."""
    encoder = keras.models.load_model(run_folder / "encoder.keras")
    batches = digits.dataset(PREPROCESSING, 128)
    return np.concatenate([encoder(batch, training=False) for batch in batches])


@pytest.fixture(scope="module")
def model(digits_model):
    return export.load(digits_model, verify=True)


def test_gallery_embeddings_are_the_python_sides(model, expected, digits):
    np.testing.assert_allclose(model.gallery.embeddings, expected, atol=1e-5)
    assert model.gallery.ids == digits.ids
    assert list(model.gallery.metadata["label"]) == [digits.class_names[label] for label in digits.labels]


@pytest.mark.parametrize("exact", [False, True])
def test_search_equals_exact_search_by_hand(digits_model, expected, digits, exact):
    model = export.load(digits_model, exact=exact)
    images = np.stack([digits.image(row) for row in range(0, 800, 40)])
    result = model.search(images, 7)
    np.testing.assert_allclose(model.embed(images), expected[0:800:40], atol=1e-5)
    assert_neighbors(result, expected[0:800:40], expected, 7)
    assert (result.ids == np.array(digits.ids)[result.indices]).all()
    assert (result.labels == np.array(digits.class_names)[digits.labels[result.indices]]).all()


def test_images_of_any_size_and_encoding(model, run_folder):
    encoder = keras.models.load_model(run_folder / "encoder.keras")
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, shape, dtype=np.uint8) for shape in ((40, 25, 3), (9, 60, 1), (16, 16, 3))]
    wanted = np.concatenate([encoder(PREPROCESSING(image)[None], training=False) for image in images])
    np.testing.assert_allclose(model.embed(images), wanted, atol=1e-5)
    np.testing.assert_allclose(model.embed(images[0]), wanted[:1], atol=1e-5)
    encoded = [tf.io.encode_png(image).numpy() for image in (images[0], images[2])]
    # Encoded images are decoded as the files of a split are.
    decoded = [encoder(PREPROCESSING(decode(content, 1))[None], training=False) for content in encoded]
    np.testing.assert_allclose(model.embed(encoded), np.concatenate(decoded), atol=1e-5)
    # A mix keeps its order.
    mixed = np.concatenate([decoded[1], wanted[1:2], decoded[0]])
    np.testing.assert_allclose(model.embed([encoded[1], images[1], encoded[0]]), mixed, atol=1e-5)


@pytest.mark.parametrize("value", range(1, 9))
def test_the_graph_turns_photographs_as_the_python_side_does(model, run_folder, tmp_path, value):
    from export.embedding import embed_split
    from export.sources import open_folder
    from keras_dml import ImageEncoder

    exif = Image.Exif()
    exif[0x0112] = value
    stream = io.BytesIO()
    # Brighter to the right and below: another picture each way up.
    ramp = np.add.outer(np.arange(30) * 6, np.arange(40)).astype(np.uint8)
    Image.fromarray(ramp).convert("RGB").save(stream, "JPEG", quality=95, exif=exif)
    content = stream.getvalue()
    with Image.open(stream) as picture:
        shown = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    wanted = model.embed(shown)
    (tmp_path / "a.jpg").write_bytes(content)
    encoder = ImageEncoder(keras.models.load_model(run_folder / "encoder.keras"), PREPROCESSING)
    ways = {
        "graph": model.embed(content),
        "bytes": encoder.embed([content]),
        "file": encoder.embed([tmp_path / "a.jpg"]),
        "gallery": embed_split(encoder, open_folder(tmp_path)),
    }
    np.testing.assert_allclose(ways["graph"], ways["bytes"], atol=1e-5)
    for name, found in ways.items():
        assert (found @ wanted.T).item() > 0.9999, name


def test_every_format_that_tensorflow_decodes(model):
    gray = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    picture = Image.fromarray(np.stack([gray] * 3, axis=-1))
    wanted = model.embed(np.asarray(picture))
    for kind in ("JPEG", "PNG", "BMP", "GIF", "WEBP"):
        stream = io.BytesIO()
        extra = {"save_all": True, "append_images": [Image.new("RGB", (32, 32))]} if kind == "GIF" else {}
        picture.save(stream, kind, **extra)
        found = model.embed(stream.getvalue())
        assert (found @ wanted.T).item() > 0.9999, kind


def test_k_above_the_gallery_and_defaults(model, digits):
    image = digits.image(3)
    assert model.search(image).ids.shape == (1, 10)
    result = model.search(image, 10_000)
    assert result.ids.shape == (1, len(digits))
    assert sorted(result.indices[0]) == list(range(len(digits)))
    assert (np.diff(result.scores[0]) <= 0).all()
    assert model.search_embeddings(np.zeros((0, 24)), 3).ids.shape == (0, 3)
    assert np.isfinite(model.search_embeddings(np.zeros(24), 3).scores).all()
    # Squares of these values overflow or vanish in float32.
    for scale in (1e30, 1e-30):
        near = model.search_embeddings(model.gallery.embeddings[:4] * scale, 1)
        assert (near.scores > 0.999).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.search_embeddings(np.zeros((1, 24)), 0), "`k` must be a positive integer. Received: k=0"),
        (lambda model: model.search_embeddings(np.zeros((1, 23))), r"shape \(n, 24\). Received: shape \(1, 23\)"),
        (lambda model: model.search_embeddings(np.full((1, 24), np.nan)), "finite"),
        (lambda model: model.embed(np.zeros((2, 3, 3, 4), np.uint8)), "1 or 3"),
        (lambda model: model.embed(np.zeros((3, 3, 3), np.float32)), "uint8"),
        (lambda model: model.embed(b"no image"), "cannot be embedded"),
        (lambda model: model.embed(tf.io.encode_png(np.zeros((1, 4000, 1), np.uint8)).numpy()), "100 times as long"),
    ],
)
def test_errors_say_what_is_wrong(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


def test_loading_what_is_no_model(tmp_path, digits_model):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        export.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="neither"):
        export.load(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(digits_model, copy)
    items = copy / "1" / "gallery" / "items.json"
    items.write_text(items.read_text().replace("digit-", "digxt-"))
    export.load(copy)
    with pytest.raises(ValueError, match=r"items.json differs"):
        export.load(copy, verify=True)
    items.unlink()
    with pytest.raises(ValueError, match=r"items.json is missing"):
        export.load(copy)


def test_manifest_describes_the_version(model, digits_model, digits):
    manifest = json.loads((digits_model / "1" / "manifest.json").read_text())
    assert manifest["name"] == "digits"
    assert manifest["version"] == 1
    assert manifest["gallery"] == {"size": len(digits), "metadata": {"label": "str"}}
    assert manifest["source"]["name"] == "tiny"
    assert manifest["index"]["kind"] == "scann_exact"
    assert manifest["recall"]["recall"] == 1.0
    assert manifest["latency"]["p50_ms"] > 0
    assert manifest["libraries"]["tensorflow"] == tf.__version__
    on_disk = {p.relative_to(digits_model / "1").as_posix() for p in (digits_model / "1").rglob("*") if p.is_file()}
    assert set(manifest["files"]) == on_disk - {"manifest.json"}
    assert [path.name for path in digits_model.glob(".*")] == [".newest"]


PORTABLE = """
import sys, numpy as np, export
model = export.load(sys.argv[1])
with np.load(sys.argv[2]) as file:
    result = model.search(file["images"], 5)
    twin = export.load(sys.argv[1], exact=True).search(file["images"], 5)
np.savez(sys.argv[3], indices=result.indices, scores=result.scores, twin=twin.scores, ids=result.ids.astype(str))
"""


def test_moved_folder_in_a_fresh_process(digits_model, model, digits, tmp_path):
    """Nothing may point back to where it was built, which pytest's folder and a renamed copy stand for."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(digits_model / "1", moved)
    images = np.stack([digits.image(row) for row in (1, 100, 500)])
    np.savez(tmp_path / "in.npz", images=images)
    run_python("-c", PORTABLE, moved, tmp_path / "in.npz", tmp_path / "out.npz")
    here = model.search(images, 5)
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["scores"], here.scores, atol=1e-5)
        np.testing.assert_allclose(found["twin"], here.scores, atol=1e-5)
        assert (found["ids"][:, 0] == here.ids[:, 0]).all()
    for graph in (moved / "saved_model.pb", moved / "exact" / "saved_model.pb"):
        assert b"/tmp/" not in graph.read_bytes()
    # The manifest names where the model came from.
    for path in set(moved.rglob("*")) - {moved / "manifest.json"}:
        assert path.is_dir() or str(tmp_path.parent).encode() not in path.read_bytes(), path


V1_LOADER = """
import sys, numpy as np, tensorflow as tf
from export.index.scann import register_ops
scann = sys.argv[1].endswith("exact") or register_ops()
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    signature = tf.compat.v1.saved_model.load(session, ["serve"], sys.argv[1]).signature_def["search_images"]
    inputs = {name: entry.name for name, entry in signature.inputs.items()}
    default = tf.make_ndarray(signature.defaults["k"]).item()
    feed = {inputs["images"]: np.load(sys.argv[2]), inputs["k"]: 5}
    ids, scores = session.run([signature.outputs["ids"].name, signature.outputs["scores"].name], feed)
    operations = {node.op for node in tf.compat.v1.get_default_graph().as_graph_def().node}
    operations |= {
        node.op for f in tf.compat.v1.get_default_graph().as_graph_def().library.function for node in f.node_def
    }
np.savez(sys.argv[3], ids=ids.astype(str), scores=scores, default=default, operations=sorted(operations))
"""


@pytest.mark.parametrize("folder", ["", "exact"])
def test_sessions_load_it_as_tensorflow_servings_server_does(digits_model, model, digits, tmp_path, folder):
    images = np.stack([digits.image(row) for row in (7, 70)])
    np.save(tmp_path / "in.npy", images)
    run_python("-c", V1_LOADER, digits_model / "1" / folder, tmp_path / "in.npy", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["scores"], model.search(images, 5).scores, atol=1e-5)
        assert (found["ids"][:, 0] == model.search(images, 1).ids[:, 0]).all()
        # The default of k is in the signature itself.
        assert found["default"] == 10
        custom = [name for name in found["operations"] if ">" in name]
        assert custom == ([] if folder else ["Scann>ScannSearchBatched", "Scann>TensorsToScann"])


WITHOUT_SCANN = """
import importlib.metadata, sys
found = importlib.metadata.version
def version(name):
    if name == "scann":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.version = version
sys.modules["scann"] = None
import numpy as np, export
try:
    export.load(sys.argv[1])
except RuntimeError as error:
    print(error)
print(export.load(sys.argv[1], exact=True).search_embeddings(np.ones((1, 24)), 3).ids.shape)
"""


def test_without_scann_the_error_names_the_remedy_and_the_twin_works(digits_model):
    output = run_python("-c", WITHOUT_SCANN, digits_model).stdout
    assert "scann, which is not installed" in output
    assert "exact=True" in output
    assert "(1, 3)" in output


def test_scann_that_does_not_fit_tensorflow(monkeypatch):
    from export.index import scann

    monkeypatch.setitem(scann.SUPPORTED, "1.4.2", "2.19")
    with pytest.raises(RuntimeError, match=r"scann 1.4.2 works with TensorFlow 2.19 alone. Received: TensorFlow 2.20"):
        scann.register_ops()


@pytest.mark.parametrize("size", [0, 1, 15])
def test_tiny_galleries(tmp_path, size):
    rows = clustered(max(size, 1), 6)[:size]
    gallery = export.Gallery(rows, [f"item {row}" for row in range(size)], {"price": np.arange(size) / 2})
    if not size:
        with pytest.raises(ValueError, match=r"no items: .*--allow-empty"):
            export.build_model(tmp_path / "tiny", gallery)
    version = export.build_model(tmp_path / "tiny", gallery, options=export.BuildOptions(allow_empty=True))
    queries = clustered(3, 6, seed=1)
    for exact in (False, True):
        model = export.load(version, exact=exact)
        result = model.search_embeddings(queries, 20)
        assert result.ids.shape == (3, size)
        if size:
            assert_neighbors(result, queries, rows, size)
            assert (result.metadata["price"] == result.indices / 2).all()
        with pytest.raises(ValueError, match="without an encoder"):
            model.embed(np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("metric", ["cosine", "dot_product", "euclidean"])
def test_every_kind_and_metric_returns_k_finite_neighbors(tmp_path, kind, metric):
    rows = clustered(600, 16, clusters=8)
    rows[100:140] = rows[100]
    if metric != "cosine":
        rows *= np.random.default_rng(2).uniform(0.5, 2, (600, 1)).astype(np.float32)
        rows[100:140] = rows[100]
    tree = {"leaves": 20, "leaves_to_search": 1} if kind == "tree" else {}
    index = export.IndexSpec(kind, metric, calibrate=False, options=tree)
    version = export.build_model(
        tmp_path / "model", export.Gallery(rows, [str(row) for row in range(600)]), index=index
    )
    queries = clustered(5, 16, seed=3, clusters=8)
    exact = export.load(version, exact=True).search_embeddings(queries, 600)
    model = export.load(version)
    for k in (1, 10, 90, 599, 600, 5000):
        result = model.search_embeddings(queries, k)
        assert result.scores.shape == (5, min(k, 600))
        assert np.isfinite(result.scores).all()
        assert all(len(set(row)) == min(k, 600) for row in result.indices.tolist())
    # Everything is asked for: the order must be the exact one, whatever the index.
    np.testing.assert_allclose(result.scores, exact.scores, atol=1e-4)
    scores = -((queries[:, None] - rows[None]) ** 2).sum(-1) if metric == "euclidean" else queries @ rows.T
    np.testing.assert_allclose(exact.scores, -np.sort(-scores, axis=1), atol=1e-4)
    np.testing.assert_allclose(exact.scores, np.take_along_axis(scores, exact.indices, axis=1), atol=1e-4)
    # Scores of such queries overflow, which ends ScaNN's process for some indexes.
    if metric != "cosine":
        for limited in (model, export.load(version, exact=True)):
            with pytest.raises(ValueError, match=r"searched: Query embeddings .* beyond which scores overflow$"):
                limited.search_embeddings(np.full((1, 16), 1e38))
            assert np.isfinite(limited.search_embeddings(np.full((1, 16), largest_value(16)), 600).scores).all()
    else:
        same = model.search_embeddings(rows[100], 40)
        assert set(same.indices[0]) == set(range(100, 140))
