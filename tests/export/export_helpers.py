"""What the tests of the export package share."""

import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]


def run_python(*arguments, timeout=240, check=True, **environment):
    """A fresh Python process in the repository, its output captured."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check and result.returncode:
        raise AssertionError(f"{arguments} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}")
    return result


def clustered(size, dim, seed=0, clusters=50):
    """`(size, dim)` float32 unit vectors around random centers."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(clusters, dim))
    rows = centers[random.integers(0, clusters, size)] + 0.5 * random.normal(size=(size, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def exact_neighbors(queries, rows, k):
    """Row numbers and cosine scores of the k nearest rows, by sorting everything."""
    scores = queries @ rows.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


def assert_neighbors(result, queries, rows, k, tolerance=1e-5):
    """Asserts that `result` holds the exact nearest rows, equal scores in any order."""
    order, scores = exact_neighbors(queries, rows, k)
    np.testing.assert_allclose(result.scores, scores, atol=tolerance)
    own = np.take_along_axis(queries @ rows.T, result.indices, axis=1)
    np.testing.assert_allclose(result.scores, own, atol=tolerance)
    assert all(len(set(row)) == k for row in result.indices.tolist())
    clear = np.abs(np.diff(scores, axis=1)) > 2 * tolerance
    first = np.concatenate([clear[:, :1], clear[:, 1:] & clear[:, :-1]], axis=1)
    assert (result.indices[:, :-1] == order[:, :-1])[first].all()


class Server:
    """`python -m export.serve` in a process of its own, on free ports of the loopback interface."""

    def __init__(self, model, *arguments, **environment):
        command = [sys.executable, "-m", "export.serve", str(model), "--rest-port", "0", "--grpc-port", "0"]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events = []
        self._seen = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            listening = self.wait_for("listening")
        except AssertionError:
            self.kill()
            raise
        self.rest = f"http://127.0.0.1:{listening['rest_port']}"
        self.port = listening["rest_port"]
        self.grpc = f"127.0.0.1:{listening['grpc_port']}"

    def _read(self):
        for line in self.process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": "text", "text": line}
            with self._seen:
                self.events.append(entry)
                self._seen.notify_all()
        with self._seen:
            self.events.append({"event": "end of log"})
            self._seen.notify_all()

    def wait_for(self, event, timeout=180, **fields):
        """The first log entry of this kind, waited for."""

        def found():
            for entry in self.events:
                if entry["event"] == event and all(entry.get(name) == value for name, value in fields.items()):
                    return entry
            if self.events and self.events[-1]["event"] == "end of log":
                raise AssertionError(f"The server ended before {event!r}: {self.events}")
            return None

        with self._seen:
            entry = self._seen.wait_for(found, timeout)
        assert entry is not None, f"no event {event!r} within {timeout} s: {self.events[-20:]}"
        return entry

    def stop(self, timeout=60):
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        finally:
            self.kill()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(10)
        self.process.stderr.close()

    def request(self, method, path, body=None, headers=None, timeout=60):
        """`(status, headers, body)` of one HTTP request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def json(self, method, path, payload=None, headers=None):
        """`(status, decoded body)` of one HTTP request with a JSON body."""
        body = payload if isinstance(payload, bytes) or payload is None else json.dumps(payload).encode()
        status, _, content = self.request(method, path, body, headers)
        return status, json.loads(content)
