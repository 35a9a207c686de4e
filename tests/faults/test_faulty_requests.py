"""Requests with faults: at least 300 of them. Each is answered by what is wrong with it, and the service goes on."""

import base64
import io
import json
import random

import numpy as np
import PIL.Image
import pytest
from export_helpers import Server
from faults import VALUES, other_value, some

import export
from keras_dml.data import load
from keras_dml.image_encoder import ImageEncoder

WIDTH = 4
PATHS = ("/v1/models/tiny:predict", "/v1/models/tiny/versions/1:predict", "/v1/models/other:predict", "/v1/models/tiny")
METHODS = ("POST", "POST", "POST", "POST", "GET", "PUT", "DELETE", "BREW")
HEADERS = (
    {},
    {"content-type": "text/html"},
    {"content-encoding": "gzip"},
    {"content-encoding": "nonsense"},
    {"expect": "200-ok"},
    {"x-request-id": "a" * 5000},
    {"range": "bytes=0-1"},
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from test_faulty_saves import encoder

    root = tmp_path_factory.mktemp("requests")
    (root / "encoder").mkdir()
    encoder(root / "encoder")
    model = root / "tiny"
    export.build_model(model, load("digits").test, ImageEncoder.load(root / "encoder"))
    running = Server(model, "--max-body-bytes", 1_000_000, "--max-images", 8, "--read-timeout", 3)
    yield running
    running.kill()


def picture(dice):
    file = io.BytesIO()
    pixels = np.random.default_rng(dice.randrange(9)).integers(0, 256, (8, 8), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(file, dice.choice(("PNG", "JPEG", "GIF", "BMP", "WEBP")))
    return {"b64": base64.b64encode(file.getvalue()).decode()}


def payload(dice):
    """A request that is right."""
    vectors = [[1.0] * WIDTH, [0.5] * WIDTH]
    pixels = np.zeros((1, 8, 8, 1), int).tolist()
    return dice.choice(
        (
            {"instances": [{"image_bytes": picture(dice)} for _ in range(2)]},
            {"signature_name": "embed_bytes", "instances": [picture(dice)]},
            {"signature_name": "search_images", "inputs": {"images": pixels, "k": 3}},
            {"signature_name": "search_embeddings", "inputs": {"embeddings": vectors, "k": 2}},
            {"signature_name": "search_embeddings", "instances": [{"embeddings": one} for one in vectors]},
        )
    )


def damaged(body, dice):
    """Bytes with a fault, or none."""
    body = bytearray(body)
    place = dice.randrange(len(body))
    match dice.randrange(6):
        case 0:
            del body[place:]
        case 1:
            body[place] ^= 1 << dice.randrange(8)
        case 2:
            body[place:place] = dice.randbytes(dice.choice((1, 9, 3000)))
        case 3:
            body[place:place] = b"[" * 50_000
        case 4:
            body *= 2
    return bytes(body)


def request(seed):
    """Method, path, body and headers."""
    dice = random.Random(seed)
    content = payload(dice)
    if dice.random() < 0.6:
        other_value(content, dice)
    body = json.dumps(content if content is not None else dice.choice(VALUES)).encode()
    if dice.random() < 0.4:
        body = damaged(body, dice)
    path = PATHS[0] if dice.random() < 0.8 else dice.choice(PATHS)
    method = "POST" if dice.random() < 0.9 else dice.choice(METHODS)
    return method, path, body, HEADERS[0] if dice.random() < 0.8 else dice.choice(HEADERS)


def test_rest_requests(server):
    right = {"signature_name": "search_embeddings", "inputs": {"embeddings": [[1.0, 0.0, 0.5, 0.0]], "k": 3}}
    before = server.json("POST", PATHS[0], right)
    assert before[0] == 200
    found, statuses = [], []
    for seed in some(320, 60):
        method, path, body, headers = request(seed)
        status, _, content = server.request(method, path, body, headers)
        statuses.append(status)
        what = f"seed {seed}: {method} {path} {headers} {body[:200]!r}: {status} {content[:300]!r}"
        bad = not (status == 200 or 400 <= status < 500) or b"Traceback" in content or len(content) > 20_000
        if bad or (status != 200 and not json.loads(content).get("error")):
            found.append(what)
    assert not found, "\n".join(found)
    assert 200 in statuses
    assert 400 in statuses
    assert server.json("POST", PATHS[0], right) == before
    assert not [entry for entry in server.events if entry["event"] == "text"], server.events
