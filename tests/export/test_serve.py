"""The server in a process of its own: REST, gRPC, limits, and what a hostile client may send."""

import base64
import concurrent.futures
import http.client
import io
import json
import socket
import struct
import time
import zlib

import grpc
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from export_helpers import Server, assert_neighbors
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

import export

TOKEN = {"Authorization": "Bearer s3cret"}


@pytest.fixture(scope="module")
def server(digits_model, tmp_path_factory):
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("s3cret\n")
    limits = ["--max-body-bytes", 2_000_000, "--max-pixels", 1_000_000, "--max-images", 8, "--read-timeout", 3]
    running = Server(digits_model, "--token-file", token, *limits)
    yield running
    running.kill()


@pytest.fixture(scope="module")
def model(digits_model):
    return export.load(digits_model)


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened


def png(image):
    return tf.io.encode_png(image).numpy()


def base64_of(content):
    return {"b64": base64.b64encode(content).decode()}


def predict(server, payload, path="/v1/models/digits:predict", headers=TOKEN):
    return server.json("POST", path, payload, headers)


def grpc_predict(channel, inputs, signature="", name="digits", version=None, timeout=30, token="s3cret", filters=()):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for key, value in inputs.items():
        proto = value if hasattr(value, "tensor_shape") else tf.make_tensor_proto(value)
        request.inputs[key].CopyFrom(proto)
    request.output_filter.extend(filters)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return stub.Predict(request, timeout=timeout, metadata=[("authorization", f"Bearer {token}")])


def assert_equal_result(columns, result):
    """Outputs from the wire against the Python side's; items of equal score may come in any order."""
    np.testing.assert_allclose(columns["scores"], result.scores, atol=1e-5)
    clear = np.abs(np.diff(result.scores, axis=1)) > 1e-4
    clear = np.pad(clear[:, :-1] & clear[:, 1:], ((0, 0), (1, 0)))
    ids = np.array([[str(name) for name in row] for row in columns["ids"]])
    assert ids.shape == result.ids.shape
    assert clear.any()
    assert (ids[:, :-1][clear] == result.ids[:, :-1][clear].astype(str)).all()
    labels = dict(zip(result.ids.ravel(), result.labels.ravel(), strict=True))
    for names, row in zip(ids, columns["label"], strict=True):
        assert all(labels.get(name, label) == label for name, label in zip(names, row, strict=True))


def test_rest_search_by_images_rows(server, model, digits):
    images = [digits.image(row) for row in (3, 77, 500)]
    status, body = predict(server, {"instances": [{"image_bytes": base64_of(png(image))} for image in images]})
    assert status == 200
    rows = body["predictions"]
    assert_equal_result({name: [row[name] for row in rows] for name in rows[0]}, model.search(np.stack(images)))
    # One input, so its name may be left out; the same over an explicit version.
    path = "/v1/models/digits/versions/1:predict"
    assert predict(server, {"instances": [base64_of(png(image)) for image in images]}, path)[1] == body


def test_rest_search_by_columns(server, model, digits):
    images = np.stack([digits.image(row) for row in (10, 20)])
    payload = {"signature_name": "search_images", "inputs": {"images": images.tolist(), "k": 4}}
    status, body = predict(server, payload)
    assert status == 200
    assert_equal_result(body["outputs"], model.search(images, 4))
    vectors = model.gallery.embeddings[:5]
    payload = {"signature_name": "search_embeddings", "inputs": {"embeddings": vectors.tolist(), "k": 300}}
    status, body = predict(server, payload)
    assert status == 200
    assert_neighbors(model.search_embeddings(vectors, 300), vectors, model.gallery.embeddings, 300)
    assert_equal_result(body["outputs"], model.search_embeddings(vectors, 300))
    rows = [{"embeddings": row.tolist(), "k": 2} for row in vectors]
    status, body = predict(server, {"signature_name": "search_embeddings", "instances": rows})
    assert [len(row["ids"]) for row in body["predictions"]] == [2] * 5


def test_rest_embed_has_one_output(server, model, digits):
    image = digits.image(5)
    status, body = predict(server, {"signature_name": "embed_bytes", "instances": [base64_of(png(image))]})
    assert status == 200
    np.testing.assert_allclose(body["predictions"], model.embed(png(image)), atol=1e-5)
    status, body = predict(server, {"signature_name": "embed_images", "inputs": [image.tolist()]})
    np.testing.assert_allclose(body["outputs"], model.embed(image), atol=1e-5)


def test_grpc_search(channel, model, digits):
    images = np.stack([digits.image(row) for row in (3, 77, 500)])
    contents = np.array([png(image) for image in images], dtype=object)
    for signature, inputs in (
        ("", {"image_bytes": contents}),
        ("search_bytes", {"image_bytes": contents, "k": np.int32(10)}),
        ("search_images", {"images": images}),
        ("search_embeddings", {"embeddings": model.embed(images)}),
    ):
        response = grpc_predict(channel, inputs, signature)
        assert response.model_spec.version.value == 1
        assert response.model_spec.signature_name == (signature or "serving_default")
        outputs = {name: tf.make_ndarray(value) for name, value in response.outputs.items()}
        # Where TensorFlow Serving puts values, and clients without TensorFlow read them.
        np.testing.assert_array_equal(response.outputs["scores"].float_val, outputs["scores"].ravel())
        np.testing.assert_array_equal(response.outputs["indices"].int_val, outputs["indices"].ravel())
        for name in ("ids", "label"):
            outputs[name] = np.array([[item.decode() for item in row] for row in outputs[name]])
        assert_equal_result(outputs, model.search(images, 10))
    response = grpc_predict(channel, {"image_bytes": contents}, version=1, filters=["ids"])
    assert list(response.outputs) == ["ids"]


def test_searches_under_a_filter(server, channel, model, digits):
    images = np.stack([digits.image(row) for row in (3, 77, 500)])
    contents = [png(image) for image in images]
    label = str(model.gallery.metadata["label"][-1])
    where = {"label": {"$in": [label]}}
    wanted = model.search(images, 6, where=where, offset=2)
    assert set(wanted.labels.ravel()) == {label}
    rows = [{"image_bytes": base64_of(content), "k": 6} for content in contents]
    status, body = predict(server, {"instances": rows, "where": where, "offset": 2})
    assert status == 200, body
    answer = body["predictions"]
    assert_equal_result({name: [row[name] for row in answer] for name in answer[0]}, wanted)
    inputs = {
        "image_bytes": np.array(contents, dtype=object),
        "k": np.int32(6),
        "where": json.dumps(where),
        "offset": np.int32(2),
    }
    outputs = {name: tf.make_ndarray(value) for name, value in grpc_predict(channel, inputs).outputs.items()}
    for name in ("ids", "label"):
        outputs[name] = np.array([[item.decode() for item in row] for row in outputs[name]])
    assert_equal_result(outputs, wanted)
    # All that a filter keeps, and a filter that keeps nothing.
    payload = {"signature_name": "search_images", "inputs": {"images": images.tolist(), "k": 900}}
    status, body = predict(server, {**payload, "where": where})
    assert np.shape(body["outputs"]["ids"]) == (3, (model.gallery.metadata["label"] == label).sum())
    status, body = predict(server, {**payload, "where": {"label": "nobody"}})
    assert body["outputs"]["ids"] == [[], [], []]
    payload = {"signature_name": "embed_images", "inputs": {"images": images.tolist()}}
    assert "are for searches" in predict(server, {**payload, "where": where})[1]["error"]
    assert "are for searches" in predict(server, {**payload, "offset": 3})[1]["error"]


def test_status_and_metadata(server, channel):
    status, body = server.json("GET", "/v1/models/digits", headers=TOKEN)
    assert status == 200
    assert body["model_version_status"] == [
        {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
    assert server.json("GET", "/v1/models/digits/versions/1", headers=TOKEN) == (status, body)
    status, body = server.json("GET", "/v1/models/digits/metadata", headers=TOKEN)
    assert body["model_spec"] == {"name": "digits", "signature_name": "", "version": "1"}
    signatures = body["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    assert set(signatures["search_images"]["outputs"]) == {"ids", "scores", "indices", "label"}

    metadata = [("authorization", "Bearer s3cret")]
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "digits"
    status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=30, metadata=metadata)
    assert [(entry.version, entry.state) for entry in status.model_version_status] == [(1, 30)]
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "digits"
    request.metadata_field.append("signature_def")
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.GetModelMetadata(request, timeout=30, metadata=metadata)
    definitions = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(definitions)
    assert set(definitions.signature_def) == set(signatures)


def bomb(height, width):
    """A PNG of one color: a few kilobytes that unpack to `height` x `width` gray pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    # Rows beyond the first megabytes are left out, which a decoder would find out too late.
    data = zlib.compress(bytes(min((width + 1) * height, 10_000_000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def embeddings(value, **more):
    return {"signature_name": "search_embeddings", "inputs": {"embeddings": value, **more}}


ZEROS = [[0.0] * 24]
MALFORMED = [
    (b"", 400, "must be JSON"),
    (b"{", 400, "must be JSON"),
    (b"\xff\xfe\x00", 400, "must be JSON"),
    (b"[]", 400, "must be a JSON object"),
    (b"[" * 100_000, 400, "must be JSON"),
    (b'{"instances":' + b"[" * 100_000, 400, "must be JSON"),
    (b'{"instances": [1' + b"0" * 10_000 + b"]}", 400, "must be JSON"),
    (b'{"signature_name":"search_embeddings","inputs":{"embeddings":[[NaN]]}}', 400, "must be JSON"),
    ({}, 400, "either 'instances' (rows) or 'inputs'"),
    ({"inputs": {}, "instances": []}, 400, "either"),
    ({"instances": []}, 400, "at least one row"),
    ({"instances": {}}, 400, "must be a list"),
    ({"inputs": {}}, 400, "needs input 'image_bytes'"),
    ({"inputs": None}, 400, "must hold strings"),
    ({"instances": [{"image": 1}]}, 400, "Unknown input 'image'"),
    ({"instances": [{"image_bytes": "x"}, {"k": 1}]}, 400, "same inputs"),
    ({"instances": [{"b64": "%%%"}]}, 400, "base64"),
    ({"instances": [{"b64": 5}]}, 400, "must hold strings"),
    ({"instances": [["x"]]}, 400, "must hold strings"),
    ({"signature_name": 5, "instances": ["x"]}, 400, "must be a string"),
    ({"signature_name": "nope", "instances": ["x"]}, 400, "no signature 'nope'"),
    ({"instances": ["no image"]}, 400, "not a JPEG, PNG, GIF, BMP or WebP"),
    ({"instances": [base64_of(b"\x89PNG\r\n\x1a\n" + bytes(60))]}, 400, "does not begin with its header"),
    ({"instances": [base64_of(png(np.zeros((40, 40, 3), np.uint8))[:-30])]}, 400, "Invalid PNG data"),
    ({"instances": [base64_of(png(np.zeros((8, 8, 1), np.uint8)))] * 9}, 400, "1 to 8 rows"),
    ({"instances": [base64_of(png(np.zeros((1, 3000, 1), np.uint8)))]}, 400, "100 times as long"),
    (embeddings([[1.0] * 23]), 400, "shape (any, 24). Received: shape (1, 23)"),
    (embeddings([1.0] * 24), 400, "shape (any, 24)"),
    (embeddings([[1.0] * 24, [1.0]]), 400, "regular array"),
    (embeddings([["a"] * 24]), 400, "must hold numbers"),
    (embeddings([[None] * 24]), 400, "must hold numbers"),
    (embeddings([[{}] * 24]), 400, "must hold numbers"),
    (embeddings([[True] * 24]), 400, "must hold numbers"),
    (embeddings([[1e39] * 24]), 400, "must be finite"),
    (embeddings([]), 400, "shape"),
    (embeddings(ZEROS * 1025), 400, "1 to 1024 rows"),
    (embeddings(ZEROS, k=0), 400, "'k' must lie in [1, 1000]. Received: 0"),
    (embeddings(ZEROS, k=-1), 400, "'k' must lie in"),
    (embeddings(ZEROS, k=1001), 400, "'k' must lie in"),
    (embeddings(ZEROS, k=10**12), 400, "must hold integers"),
    (embeddings(ZEROS, k=2.5), 400, "must hold integers"),
    (embeddings(ZEROS, k="3"), 400, "must hold numbers"),
    (embeddings(ZEROS, k=[]), 400, "one number"),
    (embeddings(ZEROS, k=[1, 2]), 400, "one number"),
    (embeddings(ZEROS * 200, k=1000), 400, "100000 neighbors in all"),
    (embeddings(ZEROS, l=1), 400, "Unknown input 'l'"),
    ({**embeddings(ZEROS), "where": "label"}, 400, "must be an object"),
    ({**embeddings(ZEROS), "where": {"lable": "5"}}, 400, "Did you mean 'label'?"),
    ({**embeddings(ZEROS), "where": {"label": 5}}, 400, "holds strings"),
    ({**embeddings(ZEROS), "offset": -1}, 400, "'offset' must be"),
    ({**embeddings(ZEROS), "offset": True}, 400, "'offset' must be"),
    ({**embeddings(ZEROS), "offset": 1.5}, 400, "'offset' must be"),
    ({**embeddings(ZEROS, k=10), "offset": 991}, 400, "may go 1000 neighbors deep"),
    ({"signature_name": "embed_bytes", "instances": ["x"], "where": {}}, 400, "not a JPEG"),
    ({"signature_name": "search_images", "inputs": {"images": [[[[256]]]]}}, 400, "integers in [0, 255]"),
    ({"signature_name": "search_images", "inputs": {"images": [[[[0.5]]]]}}, 400, "integers in [0, 255]"),
    ({"signature_name": "search_images", "inputs": {"images": [[[[1, 2]]]]}}, 400, "1 or 3 channels"),
    ({"signature_name": "search_images", "inputs": {"images": [[[]]]}}, 400, "shape"),
    ({"signature_name": "search_images", "inputs": {"images": [[[[]]]]}}, 400, "channels"),
    ({"signature_name": "search_images", "inputs": {"images": [[[[1]] * 200]]}}, 400, "100 times as long"),
]


@pytest.mark.parametrize("case", range(len(MALFORMED)))
def test_malformed_requests_get_4xx_and_a_reason(server, case):
    payload, status, message = MALFORMED[case]
    found, body = predict(server, payload)
    assert found == status, body
    assert message in body["error"]
    assert "Traceback" not in body["error"]


@pytest.mark.parametrize("size", [(1001, 1000), (30_000, 30_000), (60_000, 60_000)])
def test_decompression_bombs_are_refused_by_their_header(server, size):
    status, body = predict(server, {"instances": [base64_of(bomb(*size))]})
    assert status == 400
    assert "an image may have 1000000 pixels" in body["error"]


def test_gif_of_many_frames_is_refused(server):
    stream = io.BytesIO()
    frames = [PIL.Image.fromarray(np.full((600, 600), 9 * n, np.uint8)) for n in range(4)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    status, body = predict(server, {"instances": [base64_of(stream.getvalue())]})
    assert status == 400
    assert "pixels" in body["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/other", 404),
        ("GET", "/v1/models/digits/versions/7", 404),
        ("GET", "/v1/models/digits/versions/x", 404),
        ("GET", "/v1/models/digits/versions/99999999999999999999999999", 404),
        ("GET", "/v1/models/digits/versions/7/metadata", 404),
        ("POST", "/v1/models/other:predict", 404),
        ("POST", "/v1/models/digits/versions/7:predict", 404),
        ("POST", "/v1/models/digits/versions/-1:predict", 404),
        ("POST", "/v1/models/digits:classify", 400),
        ("POST", "/v1/models/digits:regress", 400),
        ("GET", "/v1/models/digits:predict", 404),
        ("DELETE", "/v1/models/digits", 405),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/page/../rest.py", 404),
        ("GET", "/page/rest.py", 404),
        ("GET", "/gallery/1/896/picture", 404),
        ("GET", "/gallery/1/-1/picture", 404),
        ("GET", "/gallery/2/0/picture", 404),
        ("GET", "/gallery/1/0/neighbours?k=0", 400),
        ("GET", "/gallery/1/0/neighbours?k=100000", 400),
        ("GET", "/gallery?limit=x", 400),
        ("POST", "/search", 400),
    ],
)
def test_unknown_addresses(server, method, path, status):
    body = json.dumps({"instances": ["x"]}).encode() if "predict" in path else b""
    found, _, content = server.request(method, path, body, TOKEN)
    assert found == status, content
    assert json.loads(content)["error"]


def send_on(client, chunk):
    for _ in range(3000):
        client.sendall(chunk)
        time.sleep(0.01)


def test_large_bodies_are_refused_before_they_are_read(server):
    head = b"POST /v1/models/digits:predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\n"
    # Announced, never sent.
    with socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(head + b"Content-Length: 99999999999\r\n\r\n")
        assert b" 413 " in client.recv(4096)
    # Chunks, of which nobody says how many there will be.
    with socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        # Up to the one that is too much.
        for _ in range(31):
            client.sendall(chunk)
        assert b" 413 " in client.recv(4096)
        # The server has another three seconds for a client that does not stop.
        client.settimeout(20)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_on(client, chunk)


def test_a_client_that_sends_a_large_body_reads_the_refusal(server):
    """Most clients send everything before they read: a connection reset meanwhile would hide the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        for _ in range(5):
            connection.request("POST", "/v1/models/digits:predict", b" " * 12_000_000, TOKEN)
            response = connection.getresponse()
            assert (response.status, "2000000 bytes" in json.load(response)["error"]) == (413, True)
        # The connection is still good.
        connection.request("GET", "/v1/models/digits", headers=TOKEN)
        assert connection.getresponse().status == 200
    finally:
        connection.close()


def test_silent_clients_are_let_go(server):
    """Headers that never end close the connection; a body that never comes is a 408."""
    with socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(b"POST /v1/models/digits:predict HTTP/1.1\r\nHost: x\r\n")
        assert client.recv(4096) == b""
    with socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(
            b"POST /v1/models/digits:predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\n"
            b"Content-Length: 50\r\n\r\n{"
        )
        assert b" 408 " in client.recv(4096)
    with socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(b"\x16\x03\x01 not HTTP\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("token", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}])
def test_token_is_asked_for(server, channel, token):
    for method, path in (
        ("POST", "/v1/models/digits:predict"),
        ("GET", "/v1/models/digits"),
        ("GET", "/gallery"),
        ("GET", "/metrics"),
        ("GET", "/gallery/1/0/picture"),
        ("POST", "/search"),
    ):
        status, headers, _ = server.request(method, path, b"{}", token)
        assert status == 401
        assert headers["www-authenticate"] == "Bearer"
    for path in ("/healthz", "/readyz", "/"):
        assert server.request("GET", path, headers=token)[0] == 200
    with pytest.raises(grpc.RpcError) as error:
        grpc_predict(channel, {"image_bytes": np.array([b"x"])}, token="wrong")
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def tensor(dtype, shape, **values):
    proto = tf.make_tensor_proto(0)
    proto.Clear()
    proto.dtype = tf.as_dtype(dtype).as_datatype_enum
    for size in shape:
        proto.tensor_shape.dim.add().size = size
    for name, value in values.items():
        if isinstance(value, bytes):
            setattr(proto, name, value)
        else:
            getattr(proto, name).extend(value)
    return proto


@pytest.mark.parametrize(
    ("inputs", "options", "code", "message"),
    [
        ({"image_bytes": ["no image"]}, {}, "INVALID_ARGUMENT", "not a JPEG"),
        ({}, {}, "INVALID_ARGUMENT", "needs input 'image_bytes'"),
        ({"image_bytes": ["x"], "y": [1]}, {}, "INVALID_ARGUMENT", "inputs"),
        ({"image_bytes": ["x"]}, {"name": "other"}, "NOT_FOUND", "no model 'other'"),
        ({"image_bytes": ["x"]}, {"name": ""}, "NOT_FOUND", "no model"),
        ({"image_bytes": ["x"]}, {"version": 9}, "NOT_FOUND", "Version 9"),
        ({"image_bytes": ["x"]}, {"version": -1}, "NOT_FOUND", "Version -1"),
        ({"image_bytes": ["x"]}, {"signature": "nope"}, "INVALID_ARGUMENT", "no signature 'nope'"),
        ({"embeddings": np.zeros((1, 24))}, {"signature": "search_embeddings"}, "INVALID_ARGUMENT", "type float32"),
        (
            {"embeddings": np.full((1, 24), np.nan, np.float32)},
            {"signature": "search_embeddings"},
            "INVALID_ARGUMENT",
            "finite",
        ),
        (
            {"embeddings": tensor(tf.float32, (2**40, 24), float_val=[0.0])},
            {"signature": "search_embeddings"},
            "INVALID_ARGUMENT",
            "larger than",
        ),
        (
            {"embeddings": tensor(tf.float32, (-1, 24), float_val=[0.0])},
            {"signature": "search_embeddings"},
            "INVALID_ARGUMENT",
            "negative",
        ),
        (
            {"embeddings": tensor(tf.float32, (1, 24), tensor_content=b"abc")},
            {"signature": "search_embeddings"},
            "INVALID_ARGUMENT",
            "no valid tensor",
        ),
        ({"image_bytes": tensor(tf.string, (2**40,), string_val=[b"x"])}, {}, "INVALID_ARGUMENT", "must have"),
        ({"image_bytes": tensor(tf.resource, ())}, {}, "INVALID_ARGUMENT", "image_bytes"),
        ({"image_bytes": ["x"], "k": np.int32(10**6)}, {}, "INVALID_ARGUMENT", "'k' must lie in"),
        ({"image_bytes": ["x"], "k": np.int64(3)}, {}, "INVALID_ARGUMENT", "type int32"),
        ({"image_bytes": ["x"], "where": "label=5"}, {}, "INVALID_ARGUMENT", "must be JSON"),
        ({"image_bytes": ["x"], "where": b"\xff"}, {}, "INVALID_ARGUMENT", "decode"),
        ({"image_bytes": ["x"], "where": [b"{}", b"{}"]}, {}, "INVALID_ARGUMENT", "must be one string"),
        ({"image_bytes": ["x"], "where": 5}, {}, "INVALID_ARGUMENT", "must be one string"),
        ({"image_bytes": ["x"], "offset": 0.5}, {}, "INVALID_ARGUMENT", "one whole number"),
        ({"image_bytes": [png(np.zeros((9, 9, 3), np.uint8))]}, {"filters": ["x"]}, "INVALID_ARGUMENT", "no output"),
        ({"image_bytes": [b"x" * 2_100_000]}, {}, "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_grpc_errors(channel, inputs, options, code, message):
    inputs = {
        name: value if hasattr(value, "tensor_shape") else tf.make_tensor_proto(value) for name, value in inputs.items()
    }
    with pytest.raises(grpc.RpcError) as error:
        grpc_predict(channel, inputs, **options)
    assert error.value.code() is grpc.StatusCode[code], error.value
    assert message in error.value.details()


def test_grpc_classify_is_unimplemented(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    with pytest.raises(grpc.RpcError) as error:
        stub.Classify(classification_pb2.ClassificationRequest(), timeout=30)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_many_clients_get_their_own_answers(server, channel, model, digits):
    """Requests that run as one batch: each gets its rows, and a bad one fails alone."""
    rows = list(range(0, 480, 10))
    wanted = model.search(np.stack([digits.image(row) for row in rows]), 3)
    cut = base64_of(png(np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8))[:-20])

    def ask(number):
        if number % 12 == 5:
            return predict(server, {"inputs": {"image_bytes": [cut], "k": 3}})
        content = png(digits.image(rows[number]))
        if number % 2:
            return predict(server, {"inputs": {"image_bytes": [base64_of(content)], "k": 3}})
        outputs = grpc_predict(channel, {"image_bytes": np.array([content], object), "k": np.int32(3)}).outputs
        values = {name: tf.make_ndarray(value) for name, value in outputs.items()}
        return 200, {"outputs": {"scores": values["scores"], "ids": [[name.decode() for name in values["ids"][0]]]}}

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(len(rows))))
    for number, (status, body) in enumerate(answers):
        if number % 12 == 5:
            assert status == 400, body
            continue
        assert status == 200, body
        np.testing.assert_allclose(body["outputs"]["scores"][0], wanted.scores[number], atol=1e-5)
        assert body["outputs"]["ids"][0][0] == wanted.ids[number, 0]


def test_metrics_and_logs(server):
    predict(server, embeddings(ZEROS, k=2))
    status, headers, content = server.request("GET", "/metrics", headers=TOKEN)
    text = content.decode()
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert 'export_requests_total{code="200",method="predict",protocol="http"}' in text
    assert 'export_request_seconds_bucket{le="0.005",method="predict",protocol="http"}' in text
    assert "export_model_version 1.0" in text
    assert "export_gallery_items 896.0" in text
    entry = server.wait_for("request", code="200", signature="search_embeddings", k=2, rows=1)
    assert entry["protocol"] == "http"
    assert entry["ms"] > 0
    assert entry["version"] == 1


def test_nothing_here_was_an_internal_error(server):
    """Runs last: no request of this module made the server fail."""
    text = server.request("GET", "/metrics", headers=TOKEN)[2].decode()
    assert 'code="500"' not in text
    assert 'code="INTERNAL"' not in text
    assert not [entry for entry in server.events if entry["event"] == "unexpected error"]
    assert server.stop() == 0
    server.wait_for("stopped")
