"""What the tests of the export package share."""

import os
import pathlib
import subprocess
import sys

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
    """`(size, dim)` float32 unit vectors around random centres."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(clusters, dim))
    rows = centres[random.integers(0, clusters, size)] + 0.5 * random.normal(size=(size, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def exact_neighbours(queries, rows, k):
    """Row numbers and cosine scores of the k nearest rows, by sorting everything."""
    scores = queries @ rows.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


def assert_neighbours(result, queries, rows, k, tolerance=1e-5):
    """Asserts that `result` holds the exact nearest rows, equal scores in any order."""
    order, scores = exact_neighbours(queries, rows, k)
    np.testing.assert_allclose(result.scores, scores, atol=tolerance)
    own = np.take_along_axis(queries @ rows.T, result.indices, axis=1)
    np.testing.assert_allclose(result.scores, own, atol=tolerance)
    assert all(len(set(row)) == k for row in result.indices.tolist())
    clear = np.abs(np.diff(scores, axis=1)) > 2 * tolerance
    first = np.concatenate([clear[:, :1], clear[:, 1:] & clear[:, :-1]], axis=1)
    assert (result.indices[:, :-1] == order[:, :-1])[first].all()
