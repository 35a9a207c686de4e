"""Choosing, calibrating and measuring an index."""

import numpy as np
import pytest
from export_helpers import clustered, exact_neighbors

from export import Gallery, IndexSpec
from export.index import calibration
from export.index.built_index import build_index
from export.index.scann import ScannSettings
from keras_dml.utils.progress import Progress


@pytest.mark.parametrize(
    ("size", "dim", "kind"),
    [
        (0, 128, "scann_exact"),
        (15, 128, "scann_exact"),
        (40_000, 128, "scann_exact"),
        (45_000, 128, "hashing"),
        (300_000, 128, "hashing"),
        (400_000, 128, "tree"),
        (5_000_000, 3, "scann_exact"),
        (100, 1_000_000, "scann_exact"),
    ],
)
def test_kind_follows_the_number_of_floats(size, dim, kind):
    settings = IndexSpec().engine().choose(IndexSpec(), size, dim)
    assert settings.kind == kind
    if kind == "tree":
        assert np.sqrt(size) <= settings.leaves <= 3 * np.sqrt(size)


@pytest.fixture(scope="module")
def rows():
    return clustered(4000, 32, clusters=300)


@pytest.mark.parametrize("target", [0.7, 0.9, 0.99])
def test_tree_is_calibrated_to_the_recall_asked_for(rows, target):
    index = build_index(rows, IndexSpec("tree", recall=target, options={"leaves": 100}))
    assert index.calibration.recall >= target
    assert index.calibration.source == "held out of the gallery"
    assert index.calibration.queries == 400
    # Queries nobody has seen, on the final index.
    queries = clustered(4400, 32, clusters=300)[4000:]
    order, _ = exact_neighbors(queries, rows, 10)
    found = index.engine.search(index.index, queries, 10, index.settings)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), order.tolist(), strict=True)])
    assert recall >= target - 0.05


def test_more_recall_costs_more_leaves(rows):
    low, high = (
        build_index(rows, IndexSpec("tree", recall=target, options={"leaves": 100})).settings.leaves_to_search
        for target in (0.5, 0.99)
    )
    assert low < high <= 100


def test_settings_by_hand_stay(rows):
    options = {"leaves": 64, "leaves_to_search": 3, "reorder": 50}
    index = build_index(rows, IndexSpec("tree", recall=0.99, options=options))
    assert index.settings == ScannSettings("tree", **options)
    assert index.calibration.recall < 0.99


def test_queries_of_the_caller_need_no_second_index(rows):
    told = []
    progress = Progress()
    progress.message = told.append
    queries = clustered(300, 32, seed=5, clusters=300)
    index = build_index(rows, IndexSpec("hashing", recall=0.9), queries, progress)
    assert index.calibration.source == "queries of the caller"
    assert index.calibration.recall >= 0.9
    assert sum("built in" in text for text in told) == 1


def test_recall_counts_ties_as_found_and_repeats_once():
    rows = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    query = np.array([[1, 0]], np.float32)
    kth = calibration.exact_scores(query, rows, 2, "cosine")
    np.testing.assert_allclose(kth, [1.0])
    assert calibration.recall_of(np.array([[2, 0]]), kth, query, rows, "cosine") == 1.0
    assert calibration.recall_of(np.array([[2, 3]]), kth, query, rows, "cosine") == 0.5
    assert calibration.recall_of(np.array([[2, 2]]), kth, query, rows, "cosine") == 0.5
    assert calibration.recall_of(np.array([[2, -1]]), kth, query, rows, "cosine") == 0.5


@pytest.mark.parametrize("metric", ["dot_product", "euclidean"])
def test_exact_scores_in_blocks(metric, monkeypatch):
    monkeypatch.setattr(calibration, "BLOCK_SCORES", 900)
    rows = np.random.default_rng(0).normal(size=(700, 5)).astype(np.float32)
    queries = rows[:9] + 0.1
    scores = queries @ rows.T
    if metric == "euclidean":
        scores = -((queries[:, None] - rows[None]) ** 2).sum(-1)
    wanted = np.sort(scores, axis=1)[:, -10]
    np.testing.assert_allclose(calibration.exact_scores(queries, rows, 10, metric), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IndexSpec("forest"), "`kind` must be one of"),
        (lambda: IndexSpec(metric="hamming"), "`metric` must be one of"),
        (lambda: ScannSettings("tree"), "needs `leaves` and `leaves_to_search`"),
        (lambda: ScannSettings("tree", leaves=3, leaves_to_search=4), "at most `leaves`"),
        (lambda: ScannSettings("hashing", reorder=0), "`reorder` must be positive. Received: reorder=0"),
        (lambda: IndexSpec(recall=1.5), r"`recall` must lie in \(0, 1\]"),
        (
            lambda: build_index(np.ones((3, 2), np.float32), IndexSpec("tree", options={"leaves": 4})),
            "more leaves than items",
        ),
        (lambda: build_index(np.ones((19, 8), np.float32), IndexSpec("hashing")), "at least 20 items"),
        (
            lambda: build_index(np.full((3, 4), 1e20, np.float32), IndexSpec(metric="euclidean")),
            r"values up to 2.5e\+14.*Received: 1e\+20",
        ),
        (lambda: build_index(np.ones((3, 4), np.float32), queries=np.ones((2, 5))), r"shape \(queries, 4\)"),
        (lambda: build_index(np.ones((3, 4), np.float32), queries=np.full((2, 4), np.nan)), "must be finite"),
        (lambda: Gallery(np.full((2, 2), np.nan), ("a", "b")), "row 0 .id 'a'"),
        (lambda: Gallery(np.array([[1, 2], [1e300, 2]]), ("a", "b")), "row 1 .id 'b'"),
        (lambda: Gallery(np.ones((2, 2)), ("a", "a")), "Received twice: 'a'"),
        (lambda: Gallery(np.ones((2, 2)), ("a",)), "2 embeddings, 1 ids"),
        (lambda: Gallery(np.ones((2, 2)), ("a", "")), "non-empty"),
        (lambda: Gallery(np.ones(2), ("a", "b")), "shape"),
        (lambda: Gallery(np.ones((1, 2)), ("a",), {"scores": [1]}), "scores"),
        (lambda: Gallery(np.ones((1, 2)), ("a",), {"price": [float("nan")]}), "finite"),
        (lambda: Gallery(np.ones((1, 2)), ("a",), {"price": [1, 2]}), r"shape \(1,\)"),
        (lambda: Gallery(np.ones((1, 2)), ("a",), {"tag": [None]}), "mixes"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_gallery_round_trip(tmp_path):
    metadata = {"label": ["ä", "", "x"], "count": [1, 2, 2**40], "price": [0.1, 2.0, 3.5], "new": [True, False, True]}
    gallery = Gallery(clustered(3, 4), ("a", "b", "ü"), metadata)
    gallery.save(tmp_path)
    back = Gallery.open(tmp_path)
    assert back.ids == gallery.ids
    np.testing.assert_array_equal(back.embeddings, gallery.embeddings)
    for name, values in metadata.items():
        assert back.metadata[name].tolist() == values
        assert back.metadata[name].dtype == gallery.metadata[name].dtype


def test_gallery_of_a_runs_embeddings(tmp_path):
    names = np.array(["seven", "nine"])
    np.savez(tmp_path / "e.npz", embeddings=clustered(3, 4), ids=["a", "b", "c"], labels=[1, 0, 1], class_names=names)
    gallery = Gallery.from_npz(tmp_path / "e.npz")
    assert gallery.metadata["label"].tolist() == ["nine", "seven", "nine"]
    np.savez(tmp_path / "f.npz", embeddings=clustered(3, 4))
    with pytest.raises(ValueError, match=r"f\.npz lacks the array ids"):
        Gallery.from_npz(tmp_path / "f.npz")


def test_files_that_are_no_npz(tmp_path):
    path = tmp_path / "g.npz"
    np.savez(path, embeddings=clustered(30, 4), ids=[str(row) for row in range(30)])
    whole = path.read_bytes()
    with open(tmp_path / "array", "wb") as file:
        np.save(file, clustered(3, 4))
    broken = bytearray(whole)
    broken[150] ^= 255
    for content in (b"", b"PK\x03\x04", b"text", whole[:-50], bytes(broken), (tmp_path / "array").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"g\.npz (is no \.npz file, or not a whole one|is damaged|:)"):
            Gallery.from_npz(path)
    np.savez(path, embeddings=clustered(2, 4), ids=np.array(["a", {}], dtype=object))
    with pytest.raises(ValueError, match=r"g\.npz: the array ids holds Python objects, which are never read"):
        Gallery.from_npz(path)
