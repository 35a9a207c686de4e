"""What a service in production did not hold, each as it was found."""

import errno
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib

import grpc
import numpy as np
import pytest
import tensorflow as tf
from export_helpers import Server, clustered, run_python
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import export
from export import build, versions
from export.embedding import embed_split
from export.prepared_image import prepare_image
from export.serve.metrics import Metrics
from export.serve.model_store import ModelStore


def gallery(size, dim=8, seed=0):
    return export.Gallery(clustered(size, dim, seed), [f"item {row}" for row in range(size)])


@pytest.fixture
def shop(tmp_path):
    export.build_model(tmp_path / "shop", gallery(30))
    return tmp_path / "shop"


@pytest.fixture(scope="module")
def server(digits_model):
    running = Server(
        digits_model, "--max-answer-bytes", 200_000, "--max-connections-per-address", 20, "--max-body-bytes", 8_000_000
    )
    yield running
    running.kill()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_texts(count, size):
    """An 8 x 8 PNG with texts that are small in the file and large once unpacked."""
    texts = b"".join(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(size), 9)) for _ in range(count))
    stream = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(stream, "PNG")
    plain = stream.getvalue()
    return plain, plain[:33] + texts + plain[33:]


def test_an_output_is_named_once(server):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "digits"
    request.model_spec.signature_name = "search_embeddings"
    request.inputs["embeddings"].CopyFrom(tf.make_tensor_proto(np.ones((20, 24), np.float32)))
    request.inputs["k"].CopyFrom(tf.make_tensor_proto(np.int32(20)))
    request.output_filter.extend(["ids"] * 500 + ["scores"])
    with grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(request, timeout=60)
        assert {name: tf.make_ndarray(value).shape for name, value in response.outputs.items()} == {
            "ids": (20, 20),
            "scores": (20, 20),
        }
        request.inputs["k"].CopyFrom(tf.make_tensor_proto(np.int32(800)))
        with pytest.raises(grpc.RpcError) as refused:
            stub.Predict(request, timeout=60)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "The answer would have" in refused.value.details()


def test_texts_in_a_png_are_not_unpacked(server):
    plain, hostile = png_of_texts(900, 7_000_000)
    assert len(hostile) > 6_000_000
    assert prepare_image(hostile)[0] == plain
    answers = [server.request("POST", "/search?k=3", content) for content in (plain, hostile)]
    assert [answer[0] for answer in answers] == [200, 200]
    assert answers[0][2] == answers[1][2]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16"])
def test_a_prepared_image_is_the_image(mode):
    """Orientation included; what is not a PNG goes through as it is."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12) * 2).convert(mode)
    for kind in ("PNG", "JPEG", "WEBP") if mode in ("L", "RGB") else ("PNG",):
        stream = io.BytesIO()
        picture.save(stream, kind, exif=exif)
        prepared, *size = prepare_image(stream.getvalue())
        assert size == [8, 12, 96]
        with Image.open(io.BytesIO(prepared)) as made, Image.open(stream) as given:
            np.testing.assert_array_equal(np.asarray(made.convert("RGBA")), np.asarray(given.convert("RGBA")))
            assert made.getexif().get(0x0112) == 6


def test_photographs_of_a_modern_format_get_a_sentence():
    for brand, name in ((b"heic", "HEIC"), (b"avif", "AVIF")):
        with pytest.raises(ValueError, match=f"{name} images are not read here. Save it as a JPEG"):
            prepare_image(b"\0\0\0\x18ftyp" + brand + bytes(20))


def test_a_photograph_of_48_megapixels_is_searched(server):
    stream = io.BytesIO()
    Image.new("L", (8000, 6000), 100).save(stream, "JPEG")
    status, _, body = server.request("POST", "/search?k=3", stream.getvalue())
    assert status == 200, body
    assert len(json.loads(body)["items"]) == 3


def test_a_renamed_directory_keeps_the_models_name(shop, tmp_path):
    store = ModelStore(shop, Metrics())
    store.load_first()
    shop.rename(tmp_path / "copy")
    version = export.update_model(tmp_path / "copy", remove=["item 3"])
    assert export.load(version).name == "shop"
    assert store.name == "shop"


def test_the_name_of_a_served_model_stays(shop):
    store = ModelStore(shop, Metrics())
    store.load_first()
    newer = store._load(export.build_model(shop, gallery(5), options=export.BuildOptions(name="other")))
    assert newer.model.name == "other"
    store.current = newer
    assert store.name == "shop"


def test_two_updates_at_once_lose_nothing(shop, monkeypatch):
    """The second begins and ends while the first is at work."""
    more = export.Gallery(clustered(2, 8, 5), ["new 0", "new 1"])
    real, calls = build._write_version, []

    def slow(*arguments):
        if not calls:
            calls.append(1)
            export.update_model(shop, [more.take([1])])
        return real(*arguments)

    monkeypatch.setattr(build, "_write_version", slow)
    version = export.update_model(shop, [more.take([0])], remove=["item 0"])
    assert version.name == "3"
    assert set(export.load(shop).gallery.ids) == {*(f"item {row}" for row in range(1, 30)), "new 0", "new 1"}


def test_a_number_is_never_given_twice(shop):
    export.update_model(shop, remove=["item 0"])
    shutil.rmtree(shop / "2")
    assert export.update_model(shop, remove=["item 1"]).name == "3"


def test_a_version_published_anew_is_noticed(shop):
    store = ModelStore(shop, Metrics())
    store.load_first()
    assert store._wanted() is None
    shutil.copytree(shop / "1", shop / ".copy")
    shutil.rmtree(shop / "1")
    (shop / ".copy" / "manifest.json").touch()
    (shop / ".copy").rename(shop / "1")
    assert store._wanted()[0] == 1


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def test_flipped_bytes_are_neither_served_nor_built_on(shop):
    flip(max((shop / "1" / "assets").iterdir(), key=lambda path: path.stat().st_size))
    with pytest.raises(ValueError, match="differs from the manifest"):
        ModelStore(shop, Metrics()).load_first()
    with pytest.raises(ValueError, match="differs from the manifest"):
        export.update_model(shop, remove=["item 0"])
    assert versions.versions(shop) == [1]
    ModelStore(shop, Metrics(), verify=False).load_first()
    assert export.update_model(shop, remove=["item 0"], verify=False).name == "2"


def test_a_changed_manifest_is_noticed(shop):
    path = shop / "1" / "manifest.json"
    path.write_text(path.read_text().replace('"default_k": 10', '"default_k": 11'))
    with pytest.raises(ValueError, match="differs from its checksum"):
        export.load(shop)


def test_nothing_is_not_built(run_folder, tmp_path, capsys, shop):
    (tmp_path / "empty").mkdir()
    command = [str(run_folder), "--gallery", str(tmp_path / "empty"), "--output", str(tmp_path / "out")]
    assert build.main(command) == 1
    assert "The gallery has no items" in capsys.readouterr().err
    assert versions.versions(tmp_path / "out") == []
    everything = [f"item {row}" for row in range(30)]
    with pytest.raises(ValueError, match="has no items"):
        export.update_model(shop, remove=everything)
    store = ModelStore(shop, Metrics())
    store.load_first()
    nothing = store._load(export.update_model(shop, remove=everything, allow_empty=True))
    with pytest.raises(ValueError, match="Version 2 has no items, and version 1, which is served, has 30"):
        store._check_replaces(nothing)


def test_shards_are_checked(run_folder, digits, tmp_path, monkeypatch):
    import keras

    from keras_dml import ImageEncoder
    from keras_dml.data import ImagePreprocessing

    monkeypatch.setattr("export.embedding.SHARD_IMAGES", 8)
    encoder = ImageEncoder(keras.models.load_model(run_folder / "encoder.keras"), ImagePreprocessing(16, 16, 1))
    split = digits.subset(np.arange(24))
    wanted = embed_split(encoder, split, tmp_path / "cache", 8)
    shards = sorted((tmp_path / "cache").glob("*.npy"))
    assert len(shards) == 3
    for damage in (lambda path: path.write_bytes(path.read_bytes()[:-40]), flip, lambda path: path.write_bytes(b"")):
        damage(shards[1])
        np.testing.assert_array_equal(embed_split(encoder, split, tmp_path / "cache", 8), wanted)
        assert sorted((tmp_path / "cache").glob("*.npy")) == shards


def test_leftovers_of_killed_builds_go(run_folder, tmp_path):
    """Whatever their age, where the process is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    from keras_dml.utils.files import process_mark

    host = process_mark().partition("-")[0]
    directory = tmp_path / "digits"
    for name in (f".writing-{host}-{process.pid}-0123abcd", ".embedding-0123456789abcdef"):
        (directory / name).mkdir(parents=True)
    (directory / ".embedding-0123456789abcdef" / "owner").write_text(f"{host}-{process.pid}")
    mine = directory / f".writing-{process_mark()}-0123abcd"
    mine.mkdir()
    other = directory / ".embedding-fedcba9876543210"
    other.mkdir()
    (other / "owner").write_text(process_mark())
    rows = clustered(30, 24)
    np.savez(tmp_path / "rows.npz", embeddings=rows, ids=[str(row) for row in range(30)])
    assert build.main([str(run_folder), "--gallery", str(tmp_path / "rows.npz"), "--output", str(directory)]) == 0
    assert {path.name for path in directory.iterdir()} == {"1", ".newest", mine.name, other.name}


def test_ids_are_checked_before_anything_is_embedded(run_folder, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("L", (8, 8)).save(tmp_path / "images" / name)
    command = [str(run_folder), "--gallery", str(tmp_path / "images"), "--output", str(tmp_path / "out")]
    assert build.main(command) == 1
    assert "An id must be text that UTF-8 can write. Rename it" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/.embedding-*"))
    with pytest.raises(ValueError, match="Metadata column 'maker' must be text that UTF-8"):
        export.Gallery(np.ones((1, 2)), ("a",), {"maker": np.array([name], dtype=object)})


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
import numpy as np, export
from keras_dml.utils.command import execute
rows = np.random.default_rng(0).normal(size=(4000, 64))
sys.exit(execute(lambda: print(export.build_model(sys.argv[2], export.Gallery(rows, [str(i) for i in range(4000)])))))
"""


@pytest.mark.parametrize("size", [100_000, 400_000])
def test_a_full_disk_is_one_line(tmp_path, size):
    result = run_python("-c", FULL, size, tmp_path / "m", check=False)
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if "rror" in line]
    assert errors == [
        f"error: {tmp_path / 'm'} cannot be written: {os.strerror(errno.EFBIG)}. Make room, and give the "
        "same command again"
    ]
    assert not [path for path in (tmp_path / "m").iterdir() if path.name != ".newest"]


def test_health_is_answered_whoever_connects(server):
    held = []
    try:
        for _ in range(25):
            held.append(server_connection(server))
        deadline = time.monotonic() + 10
        while server.json("GET", "/v1/models/digits")[0] == 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        status, headers, body = server.request("GET", "/v1/models/digits")
        assert status == 503
        assert headers["connection"] == "close"
        assert b"from your address" in body
        assert server.json("GET", "/healthz")[0] == 200
        assert server.json("GET", "/readyz")[0] == 200
    finally:
        for connection in held:
            connection.close()
    deadline = time.monotonic() + 10
    while server.json("GET", "/v1/models/digits")[0] != 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.json("GET", "/v1/models/digits")[0] == 200


def server_connection(server):
    import socket

    return socket.create_connection(("127.0.0.1", server.port))


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:8501", 200), ("[::1]:80", 200), ("evil.example", 403), ("evil.example:8501", 403)],
)
def test_a_strangers_name_for_this_machine_is_refused(server, host, status):
    assert server.request("GET", "/v1/models/digits", headers={"Host": host})[0] == status
    assert server.request("GET", "/healthz", headers={"Host": host})[0] == 200


def test_unknown_addresses_are_logged_and_counted(server):
    assert server.json("GET", "/nowhere/at/all")[0] == 404
    assert server.wait_for("request", path="/nowhere/at/all", timeout=10)["code"] == "404"
    metrics = server.request("GET", "/metrics")[2].decode()
    assert 'export_requests_total{code="404",method="unknown",protocol="http"}' in metrics


def test_damaged_tensors_and_images_are_the_clients_fault(server):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "digits"
    request.model_spec.signature_name = "search_embeddings"
    with grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for dtype in (*range(1, 24), 101, 9999):
            proto = request.inputs["embeddings"]
            proto.Clear()
            proto.dtype = dtype
            proto.tensor_shape.dim.add(size=1)
            proto.tensor_shape.dim.add(size=24)
            proto.tensor_content = b"\0" * 7
            with pytest.raises(grpc.RpcError) as refused:
                stub.Predict(request, timeout=30)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, (dtype, refused.value.details())


def test_drain(shop):
    server = Server(shop, "--drain", 3)
    try:
        server.process.terminate()
        server.wait_for("shutting down")
        assert server.json("GET", "/readyz")[0] == 503
        status, headers, _ = server.request("GET", "/v1/models/shop")
        assert status == 200
        assert headers["connection"] == "close"
        assert server.process.wait(30) == 0
    finally:
        server.kill()
