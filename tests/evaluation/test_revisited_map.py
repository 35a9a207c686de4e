"""mAP and mP@k of Revisited Oxford and Paris, beside plain loops over the ranking."""

import numpy as np
import pytest

from keras_dml import evaluation


def naive(query, gallery, entry, setup, ks):
    """Walks down one ranking without the images that do not count."""
    right = {"easy": ["easy"], "medium": ["easy", "hard"], "hard": ["hard"]}[setup]
    ignored = {"easy": ["junk", "hard"], "medium": ["junk"], "hard": ["junk", "easy"]}[setup]
    answers = [row for name in right for row in entry[name]]
    out = [row for name in ignored for row in entry[name]]
    order = sorted(range(len(gallery)), key=lambda row: -float(np.dot(query, gallery[row])))
    ranking = [row for row in order if row not in out]
    if not answers:
        return None
    area, hits, places = 0.0, 0, []
    for place, row in enumerate(ranking):
        if row in answers:
            before = hits / place if place else 1.0
            hits += 1
            area += (1 / len(answers)) * (before + hits / (place + 1)) / 2
            places.append(place + 1)
    precisions = []
    for k in ks:
        at = min(k, max(places))
        precisions.append(sum(place <= at for place in places) / at)
    return [area, *precisions]


def case(seed, queries=6, gallery=40, dim=5):
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(queries, dim)), random.normal(size=(gallery, dim))
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    truth = []
    for _ in range(queries):
        rows = random.permutation(gallery)
        a, b, c = random.integers(0, 7, 3)
        truth.append({"easy": rows[:a].tolist(), "hard": rows[a : a + b], "junk": rows[a + b : a + b + c]})
    truth[0] = {"easy": [], "hard": [3], "junk": np.zeros(0)}
    return x, y, truth


@pytest.mark.parametrize("seed", range(8))
def test_as_by_plain_loops(seed):
    x, y, truth = case(seed)
    ks = (1, 3, 5, 50)
    scores = evaluation.revisited_map(x, y, truth, ks)
    assert list(scores) == ["easy", "medium", "hard"]
    for setup, found in scores.items():
        expected = [naive(x[i], y, truth[i], setup, ks) for i in range(len(x))]
        judged = [row for row in expected if row is not None]
        for i, row in enumerate(expected):
            each = [found.average_precisions[i], *found.precisions[i]]
            np.testing.assert_allclose(each, [np.nan] * 5 if row is None else row, atol=1e-12)
        np.testing.assert_allclose([found.map, *found.precision.values()], np.mean(judged, axis=0), atol=1e-12)
        assert tuple(found.precision) == ks


def test_by_hand():
    """Ranking 0 1 2 3 4: junk first, a right answer, a wrong one, a right one."""
    x, y = np.array([[1.0, 0.0]]), np.stack([np.cos(np.arange(5) / 5), np.sin(np.arange(5) / 5)], axis=1)
    scores = evaluation.revisited_map(x, y, [{"easy": [1], "hard": [3], "junk": [0]}], ks=(1, 2, 10))
    # Places 0 and 2 of 1 2 3 4: (1 + 1) / 2 and (1/2 + 2/3) / 2, each half of the recall.
    assert scores["medium"].map == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert scores["medium"].precision == pytest.approx({1: 1, 2: 1 / 2, 10: 2 / 3})
    assert scores["easy"].map == 1
    # Place 1 of 2 3 4.
    assert scores["hard"].map == pytest.approx((0 + 1 / 2) / 2)
    assert scores["hard"].precision == pytest.approx({1: 0, 2: 1 / 2, 10: 1 / 2})


def test_a_setup_without_right_answers_is_nan():
    scores = evaluation.revisited_map(np.eye(2), np.eye(2), [{"easy": [0]}, {"easy": [1]}])
    assert scores["easy"].map == 1
    assert np.isnan(scores["hard"].map)
    assert np.isnan(scores["hard"].precision[1])


@pytest.mark.parametrize(
    ("truth", "ks", "message"),
    [
        ([{"easy": [0]}], (1,), "one entry for each query. Received: 1 entries, 2 queries"),
        ([{"easy": [0]}, {"junk": [2]}], (1,), r"`truth\[1\]` must hold rows of the gallery, from 0 to 1.*Received: 2"),
        ([{"easy": [0.5]}, {}], (1,), r"`truth\[0\]\['easy'\]` must be \(k,\) integers"),
        ([{}, {}], (0,), "`ks` must be positive"),
    ],
)
def test_what_is_refused(truth, ks, message):
    with pytest.raises(ValueError, match=message):
        evaluation.revisited_map(np.eye(2), np.eye(2), truth, ks)
