import json
import pathlib
import warnings

import accuracy_calculator
import naive_retrieval
import numpy as np
import pytest
from keras import ops

from keras_dml.evaluation import RetrievalOptions, evaluate_retrieval

LIBRARY = json.loads((pathlib.Path(__file__).parent / "accuracy_calculator.json").read_text())
OUR_NAMES = {
    "precision_at_1": "recall@1",
    "r_precision": "r_precision",
    "mean_average_precision": "map@1000",
    "mean_average_precision_at_r": "map@r",
    "mean_reciprocal_rank": "mrr",
}


def points(seed=0, n=50, d=3, classes=6):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    # A coarse grid: many exact ties.
    return np.round(4 * rng.standard_normal((n, d)) + labels[:, None]).astype(np.float32) / 4, labels


def agrees_with_loops(result, expected, lone):
    assert result.num_singletons == lone
    for name, value in expected.items():
        assert result.mean(name) == pytest.approx(value, abs=1e-12), name
        assert result.to_dict()[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("ks", [(1, 2, 4, 8), (3, 500)])
def test_agrees_with_loops(metric, ks):
    embeddings, labels = points()
    labels[:3] = [90, 91, 92]
    result = evaluate_retrieval(embeddings, labels, ks=ks, metric=metric)
    agrees_with_loops(result, *naive_retrieval.metrics(embeddings, labels, ks=ks, metric=metric))


def test_gallery_of_its_own_agrees_with_loops():
    embeddings, labels = points(1)
    args = embeddings[:20], labels[:20], embeddings[15:], labels[15:]
    result = evaluate_retrieval(*args, ks=(1, 5), metric="euclidean")
    agrees_with_loops(result, *naive_retrieval.metrics(*args, ks=(1, 5)))


def test_ids_agree_with_loops():
    embeddings, labels = points(2)
    ids = np.arange(50) // 3  # three views of an image each
    result = evaluate_retrieval(embeddings, labels, ks=(1, 5), ids=ids, metric="euclidean")
    agrees_with_loops(result, *naive_retrieval.metrics(embeddings, labels, ids=ids, ks=(1, 5)))
    args = embeddings[:20], labels[:20], embeddings[10:], labels[10:]
    names = [f"image {i}" for i in range(50)]
    result = evaluate_retrieval(*args, ks=(1, 5), ids=names[:20], gallery_ids=names[10:], metric="euclidean")
    expected = naive_retrieval.metrics(*args, ids=names[:20], gallery_ids=names[10:], ks=(1, 5))
    agrees_with_loops(result, *expected)


def test_duplicates_of_the_query_count_as_neighbors():
    # Dropping the first column instead of the query itself would score row 1 against itself.
    embeddings = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    result = evaluate_retrieval(embeddings, [0, 1, 0, 1], ks=(1,), keep_neighbors=3)
    assert result.recall[1] == 0.0
    np.testing.assert_array_equal(result.neighbors[:, 0], [1, 0, 3, 2])


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_same_numbers_as_accuracy_calculator(name):
    embeddings, labels, gallery, gallery_labels = accuracy_calculator.sets()[name]
    result = evaluate_retrieval(embeddings, labels, gallery, gallery_labels, metric="euclidean")
    for theirs, ours in OUR_NAMES.items():
        expected = LIBRARY[name][theirs]
        value = result.mean(ours)
        if expected is None:
            assert np.isnan(value)
        else:
            # The library keeps reciprocal ranks in float32, and float32 distances swap a few far neighbors of the
            # largest set.
            assert value == pytest.approx(expected, abs=2e-7 if ours == "mrr" else 1e-8), ours


def test_library_values_cover_every_set():
    assert sorted(LIBRARY) == sorted(accuracy_calculator.sets())


def test_one_item_and_all_singletons():
    result = evaluate_retrieval(np.ones((1, 2)), [3])
    assert result.num_singletons == 1
    assert np.isnan(result.recall[1])
    assert np.isnan(result.map_at_r)
    assert all(np.isnan(end) for end in result.confidence_interval("map@r"))
    np.testing.assert_array_equal(result.neighbors, [[-1]])


def test_map_at_1000_reference_divides_by_the_class_size_with_the_query():
    embeddings = np.array([[0, 1], [0, 1.1], [1, 0], [1, 0.1], [1, 0.2]], np.float32)
    result = evaluate_retrieval(embeddings, [0, 0, 1, 1, 1])
    assert result.map_at_1000 == 1.0
    assert result.map_at_1000_reference == pytest.approx((2 * 1 / 2 + 3 * 2 / 3) / 5)


def test_map_at_1000_looks_no_further_than_1000():
    # One class member next to the query, the other at rank 1002, then at rank 1000.
    embeddings = np.arange(1003, dtype=np.float32)[:, None]
    labels = np.arange(1003)
    labels[[1, 1002]] = labels[0] = 0
    embeddings[1002] = 5000
    result = evaluate_retrieval(embeddings, labels, metric="euclidean")
    assert result.per_query["map@1000"][0] == pytest.approx(1 / 2)
    embeddings[1002] = 999.5
    result = evaluate_retrieval(embeddings, labels, metric="euclidean")
    assert result.per_query["map@1000"][0] == pytest.approx((1 + 2 / 1000) / 2)


def test_result_is_immutable():
    embeddings, labels = points(3)
    result = evaluate_retrieval(embeddings, labels)
    with pytest.raises(AttributeError):
        result.ks = (1,)
    with pytest.raises(TypeError):
        result.recall[1] = 1.0
    with pytest.raises(TypeError):
        result.per_query["map@r"] = 0
    for array in (result.neighbors, result.first_match, result.labels, result.per_query["map@r"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert labels.flags.writeable
    assert embeddings.flags.writeable


def test_recall_at_any_rank_within_the_depth():
    embeddings, labels = points(4)
    result = evaluate_retrieval(embeddings, labels, ks=(1,), metric="euclidean")
    expected, _ = naive_retrieval.metrics(embeddings, labels, ks=range(1, 60))
    for k in range(1, 60):
        assert result.recall_at(k) == pytest.approx(expected[f"recall@{k}"], abs=1e-12)
    with pytest.raises(ValueError, match="`k` must be positive"):
        result.recall_at(0)
    wide = evaluate_retrieval(np.random.default_rng(0).standard_normal((1200, 2)), np.arange(1200) % 400)
    with pytest.raises(ValueError, match=r"Only the 1000 nearest neighbors.*k=1001"):
        wide.recall_at(1001)


def test_per_class_means():
    embeddings, labels = points(5)
    labels[0] = 50
    result = evaluate_retrieval(embeddings, labels, metric="euclidean")
    table = result.per_class()
    np.testing.assert_array_equal(table["class"], np.unique(labels))
    for row, label in enumerate(table["class"]):
        assert table["queries"][row] == np.sum(labels == label)
        for name in result.metric_names():
            expected = np.mean(result.query_values(name)[labels == label])
            np.testing.assert_allclose(table[name][row], expected, equal_nan=True)
    assert np.isnan(table["map@r"][table["class"] == 50])


def test_confidence_interval_resamples_classes():
    rng = np.random.default_rng(6)
    labels = np.repeat(np.arange(40), 5)
    embeddings = rng.standard_normal((40, 6))[labels] + 1.2 * rng.standard_normal((200, 6))
    result = evaluate_retrieval(embeddings, labels)
    low, high = result.confidence_interval("recall@1", seed=3)
    assert low < result.recall[1] < high
    assert (low, high) == result.confidence_interval("recall@1", seed=3)
    assert (low, high) != result.confidence_interval("recall@1", seed=4)
    # Equal classes: the spread of a resampled mean is that of 40 class means, not of 200 queries.
    means = result.per_class()["recall@1"]
    assert (high - low) / 2 == pytest.approx(1.96 * means.std() / np.sqrt(40), rel=0.15)
    narrow = result.confidence_interval("recall@1", level=0.5, seed=3)
    assert low < narrow[0] < narrow[1] < high


def test_labels_as_strings_and_columns():
    embeddings, labels = points(7)
    expected = evaluate_retrieval(embeddings, labels).to_dict()
    assert evaluate_retrieval(embeddings, [f"class {k}" for k in labels]).to_dict() == expected
    assert evaluate_retrieval(embeddings, labels[:, None].astype(np.uint8)).to_dict() == expected


def test_tensors_are_accepted():
    embeddings, labels = points(8)
    expected = evaluate_retrieval(embeddings.astype(np.float16), labels).to_dict()
    result = evaluate_retrieval(ops.convert_to_tensor(embeddings, "float16"), ops.convert_to_tensor(labels))
    assert result.to_dict() == expected


def test_clustering_is_computed_on_first_access_only(monkeypatch):
    from keras_dml.evaluation import clustering

    calls = []
    original = clustering.kmeans
    monkeypatch.setattr(clustering, "kmeans", lambda *a, **k: calls.append(1) or original(*a, **k))
    embeddings, labels = points(9)
    result = evaluate_retrieval(embeddings, labels)
    result.to_dict()
    assert not calls
    assert 0 <= result.nmi <= 1
    assert result.f1 == result.to_dict(clustering=True)["f1"]
    assert calls == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": [1, 2]}, "equally many. Received: 2 labels, 3 embeddings"),
        ({"labels": [1.0, 2.0, 3.0]}, "integers or strings"),
        ({"ks": (0, 1)}, "`ks` must be positive"),
        ({"gallery": np.ones((2, 2))}, "go together"),
        ({"gallery_ids": [1, 2]}, "`gallery_ids` needs a `gallery`"),
        ({"gallery": np.ones((2, 2)), "gallery_labels": [1, 2], "ids": [1, 2, 3]}, "both `ids` and `gallery_ids`"),
        ({"keep_neighbors": -1}, "must not be negative"),
        ({"embeddings": np.array([[0, 1], [np.nan, 1], [0, 1]])}, r"1 of 3 rows: 1\."),
    ],
)
def test_wrong_arguments(options, message):
    arguments = {"embeddings": np.ones((3, 2)), "labels": [1, 1, 2]} | options
    with pytest.raises(ValueError, match=message):
        evaluate_retrieval(**arguments)


def test_unknown_metric_names_the_nearest():
    result = evaluate_retrieval(*points(10))
    with pytest.raises(ValueError, match="Did you mean 'map@r'"):
        result.mean("map_r")


OPTIONS = {
    "ids": np.arange(20) % 18,
    "metric": "euclidean",
    "keep_neighbors": 3,
    "clusters": 4,
    "seed": 7,
    "memory": 2**20,
}


def test_older_keywords_are_fields_of_the_options():
    embeddings, labels = points(11, n=20)
    expected = evaluate_retrieval(embeddings, labels, options=RetrievalOptions(**OPTIONS))
    with pytest.warns(DeprecationWarning, match="of evaluate_retrieval") as warned:
        found = evaluate_retrieval(embeddings, labels, **OPTIONS)
    assert [str(each.message).split(". ")[0] for each in warned] == [
        f"`{name}` of evaluate_retrieval is now called `options=RetrievalOptions({name}=...)`" for name in OPTIONS
    ]
    # The caller is told, not this package.
    assert {each.filename for each in warned} == {__file__}
    assert found.to_dict(clustering=True) == expected.to_dict(clustering=True)
    np.testing.assert_array_equal(found.neighbors, expected.neighbors)
    assert found.neighbors.shape == (20, 3)
    gallery, gallery_labels = points(12, n=30)
    ids = {"ids": np.arange(20), "gallery_ids": np.arange(30)}
    with pytest.warns(DeprecationWarning, match="gallery_ids"):
        found = evaluate_retrieval(embeddings, labels, gallery, gallery_labels, **ids)
    expected = evaluate_retrieval(embeddings, labels, gallery, gallery_labels, options=RetrievalOptions(**ids))
    np.testing.assert_array_equal(found.neighbors, expected.neighbors)


def test_the_documented_call_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate_retrieval(*points(13), gallery=None, gallery_labels=None, ks=(1, 2, 4, 8))
    assert result.ks == (1, 2, 4, 8)


def test_unknown_and_doubled_keywords():
    with pytest.raises(TypeError, match=r"evaluate_retrieval\(\) got an unexpected keyword argument 'metrics'"):
        evaluate_retrieval(*points(10), metrics="cosine")
    with pytest.raises(TypeError, match="got both `options` and `metric`, `seed`"):
        evaluate_retrieval(*points(10), options=RetrievalOptions(), seed=1, metric="cosine")
