"""A served model that is updated under load, versions that do not load, shutdown with requests at hand."""

import http.client
import json
import shutil
import threading
import time

import numpy as np
import pytest
from export_helpers import Server, clustered, run_python

import export
from export.serve.loaded_version import LoadedVersion


def begin(server, length):
    """A connection with a request to search whose body of `length` bytes the server waits for."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", "/v1/models/shop:predict")
    connection.putheader("Content-Length", str(length))
    # The server answers this once it reads the body: then it has admitted the request.
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    assert connection.sock.recv(1000).startswith(b"HTTP/1.1 100 ")
    return connection


def gallery(size, dim=16, seed=0):
    return export.Gallery(clustered(size, dim, seed), [f"item {row}" for row in range(size)])


def ask(server, query, k=3):
    payload = {"signature_name": "search_embeddings", "inputs": {"embeddings": query.tolist(), "k": k}}
    return server.json("POST", "/v1/models/shop:predict", payload)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "shop"
    export.build_model(path, gallery(300))
    return path


@pytest.fixture(scope="module")
def server(directory):
    running = Server(directory, "--poll", 0.2)
    yield running
    running.kill()


def test_new_versions_come_in_without_a_dropped_request(server, directory, tmp_path):
    """Bounded load from four clients while the command line writes two versions, of which the first is deleted."""
    stop = threading.Event()
    failures, answers = [], []
    queries = gallery(300).embeddings

    def load(client):
        for number in range(5000):
            if stop.is_set():
                return
            row = (client * 997 + number) % 300
            # An exception would end this thread unnoticed.
            try:
                status, body = ask(server, queries[row : row + 1])
                assert status == 200, body
                answers.append((row, body["outputs"]["ids"][0][0]))
            except Exception as error:
                failures.append(error)
            time.sleep(0.02)

    clients = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for client in clients:
        client.start()
    try:
        rows = clustered(5, 16, seed=8)
        np.savez(tmp_path / "new.npz", embeddings=rows, ids=[f"new {row}" for row in range(5)])
        run_python("-m", "export.update", directory, "--add", tmp_path / "new.npz", "--remove", "item 7")
        server.wait_for("version loaded", version=2)
        server.wait_for("version unloaded", version=1)
        assert ask(server, rows)[1]["outputs"]["ids"][0][0] == "new 0"
        export.update_model(directory, remove=["item 8"], keep=1)
        server.wait_for("version loaded", version=3)
    finally:
        stop.set()
        for client in clients:
            client.join(60)
    assert not any(client.is_alive() for client in clients)
    assert not failures
    assert len(answers) > 50
    for row, found in answers:
        assert found == f"item {row}" or row in (7, 8)
    body = server.json("GET", "/v1/models/shop")[1]
    assert [entry["version"] for entry in body["model_version_status"]] == ["3"]
    assert server.json("GET", "/v1/models/shop/versions/2")[0] == 404
    assert server.json("GET", "/readyz") == (200, {"status": "ready", "version": 3})
    assert ask(server, queries[8:9])[1]["outputs"]["ids"][0][0] != "item 8"


def test_a_version_that_does_not_load_is_passed_over(server, directory):
    newest = max(int(path.name) for path in directory.iterdir() if path.name.isdecimal())
    broken = directory / str(newest + 1)
    shutil.copytree(directory / str(newest), directory / ".copy")
    (directory / ".copy" / "saved_model.pb").write_bytes(b"nothing")
    (directory / ".copy").rename(broken)
    entry = server.wait_for("version does not load", version=newest + 1)
    assert "saved_model.pb differs" in entry["error"]
    assert ask(server, clustered(1, 16))[0] == 200
    states = server.json("GET", "/v1/models/shop")[1]["model_version_status"]
    assert [(entry["version"], entry["state"]) for entry in states] == [
        (str(newest + 1), "END"),
        (str(newest), "AVAILABLE"),
    ]
    assert "differs" in states[0]["status"]["error_message"]
    shutil.rmtree(broken)


def test_a_version_can_be_deleted_while_it_is_served(tmp_path):
    """`--keep` may delete a version that requests still use until the server has loaded the next one."""
    items = gallery(30)
    folder = export.build_model(tmp_path / "shop", items)
    version = LoadedVersion(export.load(folder))
    shutil.rmtree(folder)
    assert version.gallery.ids == items.ids
    np.testing.assert_array_equal(version.gallery.embeddings, items.embeddings)
    assert version.model.search_embeddings(items.embeddings[4], 1).ids[0, 0] == "item 4"


def test_shutdown_answers_what_has_begun(server):
    """A request whose body is still on its way when SIGTERM comes is answered."""
    payload = json.dumps(
        {"signature_name": "search_embeddings", "inputs": {"embeddings": clustered(1, 16).tolist(), "k": 2}}
    ).encode()
    connection = begin(server, len(payload))
    connection.send(payload[:20])
    server.process.terminate()
    server.wait_for("shutting down")
    # Time for a server that does not wait for its requests to be gone.
    time.sleep(1)
    connection.send(payload[20:])
    response = connection.getresponse()
    assert response.status == 200
    assert len(json.loads(response.read())["outputs"]["ids"][0]) == 2
    assert server.process.wait(30) == 0
    with pytest.raises(OSError, match="refused"):
        server.json("GET", "/healthz")


def test_too_many_requests_and_slow_searches_end_in_time(directory):
    """One worker, one request at a time, and a time limit that no search can meet."""
    server = Server(directory, "--max-concurrency", 2, "--timeout", 0.000001, "--workers", 1)
    try:
        status, body = ask(server, clustered(1, 16))
        assert status == 504
        assert "did not finish within" in body["error"]
        held = [begin(server, 5) for _ in range(2)]
        status, body = ask(server, clustered(1, 16))
        assert status == 429
        assert "Try again later" in body["error"]
        assert server.json("GET", "/healthz")[0] == 200
        for connection in held:
            connection.close()
    finally:
        server.kill()


def test_what_cannot_be_served_ends_with_a_message(tmp_path, directory):
    import socket

    result = run_python("-m", "export.serve", tmp_path, "--rest-port", 0, "--grpc-port", 0, check=False)
    assert result.returncode == 1
    assert "error: " in result.stderr
    assert "neither a manifest.json" in result.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run_python("-m", "export.serve", directory, "--rest-port", port, "--grpc-port", 0, check=False)
    assert result.returncode == 1
    assert f"HTTP cannot listen on 127.0.0.1:{port}" in result.stderr
