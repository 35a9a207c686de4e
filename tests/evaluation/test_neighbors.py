import ml_dtypes
import numpy as np
import pytest
from naive_retrieval import ranking

from keras_dml.evaluation import NeighborSearch, nearest_neighbors, neighbors


def naive(queries, gallery=None, metric="euclidean"):
    own = gallery is None
    gallery = queries if own else gallery
    return np.array([ranking(q, gallery, {i} if own else set(), metric) for i, q in enumerate(queries)])


def spread(kind, rng, n=60, d=7):
    normal = rng.standard_normal((n, d)).astype(np.float32)
    return {
        "normal": normal,
        # One part in a million of the common offset: |q|^2 + |g|^2 - 2 q.g alone would rank this at random.
        "offset": (normal * 1e-3 + 100).astype(np.float32),
        "tiny": normal * np.float32(1e-25),
        "large": normal * np.float32(1e30),
        "grid": rng.integers(0, 2, (n, d)).astype(np.float32),
        "near_duplicates": np.repeat(normal[: n // 4], 4, axis=0) * (1 + 1e-5 * normal[:, :1]),
    }[kind]


@pytest.mark.parametrize("small", [0, 2**33])
@pytest.mark.parametrize("kind", ["normal", "offset", "tiny", "large", "grid", "near_duplicates"])
def test_euclidean_order_is_exact(monkeypatch, kind, small):
    monkeypatch.setattr(neighbors, "SMALL", small)  # 0: products by TensorFlow, otherwise by NumPy
    vectors = spread(kind, np.random.default_rng(1)).astype(np.float32)
    found, distances = nearest_neighbors(vectors, k=59, metric="euclidean")
    np.testing.assert_array_equal(found, naive(vectors))
    wide = vectors.astype(np.float64)
    expected = np.linalg.norm(wide[:, None] - wide[found], axis=-1)
    np.testing.assert_allclose(distances, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["normal", "offset", "tiny", "large"])
def test_cosine_order_is_exact(kind):
    vectors = spread(kind, np.random.default_rng(2)).astype(np.float32)
    found, distances = nearest_neighbors(vectors, k=59)
    np.testing.assert_array_equal(found, naive(vectors, metric="cosine"))
    wide = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(distances, np.linalg.norm(wide[:, None] - wide[found], axis=-1), rtol=1e-5)


def test_cosine_ties_between_scaled_copies_go_to_the_lower_row():
    rng = np.random.default_rng(3)
    base = rng.integers(1, 9, (6, 5)).astype(np.float32)
    vectors = np.concatenate([base, base * 3, base * 7])
    found, distances = nearest_neighbors(vectors, k=2)
    expected = [[i + 6, i + 12] for i in range(6)] + [[i, i + 12] for i in range(6)] + [[i, i + 6] for i in range(6)]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(distances, 0, atol=1e-6)


def test_zero_vector_under_cosine_is_at_distance_one_of_every_other():
    vectors = np.array([[0, 0], [1, 0], [0, 2], [-3, 0]], np.float32)
    found, distances = nearest_neighbors(vectors, k=3)
    np.testing.assert_array_equal(found[0], [1, 2, 3])
    np.testing.assert_allclose(distances[0], 1, rtol=1e-6)
    np.testing.assert_array_equal(found[1], [0, 2, 3])


@pytest.mark.parametrize("n", [5, 40, 3000])
def test_collapsed_embeddings_rank_by_row(n):
    found, distances = nearest_neighbors(np.full((n, 33), 0.3, np.float32), k=4)
    for row in (0, 1, 3, n - 1):
        np.testing.assert_array_equal(found[row], [i for i in range(6) if i != row and i < n][:4])
    np.testing.assert_allclose(distances, 0, atol=1e-6)


def test_identical_groups_larger_than_the_candidate_list():
    rng = np.random.default_rng(4)
    vectors = np.repeat(rng.standard_normal((2, 16)).astype(np.float32), 2000, axis=0)[rng.permutation(4000)]
    found, _ = nearest_neighbors(vectors, k=3, metric="euclidean")
    for row in range(0, 4000, 371):
        same = np.flatnonzero((vectors == vectors[row]).all(axis=1))
        np.testing.assert_array_equal(found[row], same[same != row][:3])


@pytest.mark.parametrize("small", [0, 2**33])
@pytest.mark.parametrize(("columns", "memory"), [(7, 1), (16, 40_000), (1000, 2**28)])
def test_result_does_not_depend_on_blocks_threads_or_library(monkeypatch, columns, memory, small):
    rng = np.random.default_rng(5)
    vectors = np.concatenate([rng.standard_normal((70, 9)), rng.integers(0, 2, (50, 9))]).astype(np.float32)
    expected = naive(vectors)[:, :11]
    monkeypatch.setattr(neighbors, "BLOCK_COLUMNS", columns)
    monkeypatch.setattr(neighbors, "SMALL", small)
    for threads in (1, 3):
        monkeypatch.setattr(neighbors, "available_cores", lambda threads=threads: threads)
        found, _ = nearest_neighbors(vectors, k=11, metric="euclidean", memory=memory)
        np.testing.assert_array_equal(found, expected)


def test_products_go_into_one_block_without_tensorflow(monkeypatch):
    vectors = np.random.default_rng(5).standard_normal((90, 9)).astype(np.float32)
    monkeypatch.setattr(neighbors, "uses_tensorflow", lambda: False)
    monkeypatch.setattr(neighbors, "SMALL", 0)
    monkeypatch.setattr(neighbors, "BLOCK_COLUMNS", 25)
    search = NeighborSearch(vectors, metric="euclidean", memory=10_000)
    found = np.concatenate([block for _, block, _ in search.blocks(11)])
    np.testing.assert_array_equal(found, naive(vectors)[:, :11])
    # Interrupted and begun again.
    next(search.blocks(11))
    np.testing.assert_array_equal(np.concatenate([block for _, block, _ in search.blocks(11)]), found)


def test_gallery_of_its_own():
    rng = np.random.default_rng(6)
    queries, gallery = rng.standard_normal((13, 4)), rng.standard_normal((29, 4))
    found, _ = nearest_neighbors(queries, gallery, k=29, metric="euclidean")
    np.testing.assert_array_equal(found, naive(queries.astype(np.float32), gallery.astype(np.float32)))


def test_own_id_is_excluded_wherever_it_stands():
    gallery = np.zeros((5, 2), np.float32)
    found, distances = nearest_neighbors(gallery[:2], gallery, k=6, ids=["c", "x"], gallery_ids=list("abcde"))
    np.testing.assert_array_equal(found, [[0, 1, 3, 4, -1, -1], [0, 1, 2, 3, 4, -1]])
    assert np.isinf(distances[0, 4:]).all()
    assert np.isinf(distances[1, 5])


def test_shared_ids_exclude_every_copy():
    vectors = np.arange(4, dtype=np.float32)[:, None]
    found, _ = nearest_neighbors(vectors, k=4, ids=[7, 7, 8, 9], metric="euclidean")
    np.testing.assert_array_equal(found, [[2, 3, -1, -1], [2, 3, -1, -1], [1, 3, 0, -1], [2, 1, 0, -1]])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_low_precision_embeddings_are_compared_in_float32(dtype):
    vectors = np.random.default_rng(7).standard_normal((40, 64)).astype(dtype)
    found, _ = nearest_neighbors(vectors, k=39, metric="euclidean")
    np.testing.assert_array_equal(found, naive(vectors.astype(np.float32)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused_by_number(bad):
    vectors = np.ones((9, 3), np.float32)
    vectors[[2, 7], 1] = bad
    with pytest.raises(ValueError, match=r"2 of 9 rows: 2, 7"):
        nearest_neighbors(vectors)
    with pytest.raises(ValueError, match=r"`gallery` must be finite"):
        nearest_neighbors(np.ones((1, 3)), vectors)


def test_large_finite_rows_are_accepted():
    found, _ = nearest_neighbors(np.full((3, 8), 3e38, np.float32), k=2)
    np.testing.assert_array_equal(found, [[1, 2], [0, 2], [0, 1]])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones((2, 3)), np.ones((2, 4))), {}, "same width"),
        ((np.ones((2, 3)), np.ones((0, 3))), {}, "gallery is empty"),
        ((np.ones(3),), {}, r"shape \(n, dim\)"),
        ((np.ones((2, 3)),), {"k": 0}, "`k` must be positive"),
        ((np.ones((2, 3)),), {"metric": "cosin"}, "Did you mean 'cosine'"),
        ((np.ones((2, 3)),), {"ids": [1]}, "`ids` must have one entry per embedding"),
    ],
)
def test_wrong_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbors(*arguments, **options)


def test_order_matters_only_where_it_was_asked_for():
    """Near-ties without a marked candidate may stay as they are, the first `accurate` may not."""
    rng = np.random.default_rng(8)
    vectors = np.repeat(rng.standard_normal((10, 5)), 6, axis=0).astype(np.float32)
    vectors *= 1 + 1e-7 * rng.integers(0, 3, (60, 5)).astype(np.float32)
    exact = naive(vectors)
    search = NeighborSearch(vectors, metric="euclidean")
    seen = []

    def marked(rows, columns):
        seen.append(columns.shape)
        return columns % 6 == 0

    found = np.concatenate([b for _, b, _ in search.blocks(59, accurate=3, matters=marked)])
    assert seen
    np.testing.assert_array_equal(found[:, :3], exact[:, :3])
    for got, want in zip(found, exact, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(got % 6 == 0), np.flatnonzero(want % 6 == 0))


def test_memory_is_bounded(monkeypatch):
    import tracemalloc

    # All in NumPy, whose memory can be traced. The whole matrix of scores would be 576 MB.
    monkeypatch.setattr(neighbors, "SMALL", 2**60)
    # Every thread sorts in room of its own.
    monkeypatch.setattr(neighbors, "available_cores", lambda: 2)
    vectors = np.random.default_rng(9).standard_normal((12000, 16)).astype(np.float32)
    search = NeighborSearch(vectors, memory=16 * 2**20)
    tracemalloc.start()
    for rows, _, _ in search.blocks(100):
        if rows.start > 1500:
            break
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 * 2**20
