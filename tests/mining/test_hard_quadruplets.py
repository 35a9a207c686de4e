import backends
import numpy as np
import pytest

from keras_dml.mining import hard_quadruplets


def naive(scores, labels, strategy, key_labels=None, ids=None, key_ids=None):
    """Rows `(i, j, k, l)` or None, by loops over all pairs."""
    n, m = scores.shape
    own = key_labels is None
    columns = labels if own else key_labels
    if own:
        ids = np.arange(n) if ids is None else ids
        key_ids = ids

    def usable(i, j):
        if ids is None:
            return True
        return ids[i] != key_ids[j] and (own or key_ids[j] >= 0)

    def positives(i):
        return [j for j in range(m) if columns[j] == labels[i] and usable(i, j)]

    def negatives(i):
        return [j for j in range(m) if columns[j] != labels[i] and usable(i, j)]

    def negatives_of_key(j):
        if own:
            return negatives(j), scores[j]
        return [i for i in range(n) if labels[i] != columns[j] and usable(i, j)], scores[:, j]

    def row(i):
        if not positives(i) or not negatives(i):
            return None
        j = min(positives(i), key=lambda j: (j - i) % m if strategy == "pair" else scores[i, j])
        k = max(negatives(i), key=lambda k: scores[i, k])
        candidates, values = negatives_of_key(j)
        return (i, j, k, max(candidates, key=lambda row: values[row])) if candidates else None

    rows = [row(i) for i in range(n)]
    if strategy != "batch":
        return rows
    found = [each for each in rows if each]
    return [min(found, key=lambda each: scores[each[0], each[1]])] if found else [None]


def as_rows(quadruplets):
    fields = [np.asarray(field) for field in quadruplets]
    assert all(field.shape == fields[0].shape and field.ndim == 1 for field in fields)
    assert all(field.dtype == "int32" for field in fields[:4])
    assert fields[4].dtype == bool
    return [tuple(int(f) for f in each[:4]) if each[4] else None for each in zip(*fields, strict=True)]


def run(mode, *args, **kwargs):
    def function():
        return hard_quadruplets(*args, **kwargs)

    return as_rows(backends.in_mode(function, mode)())


def random_scores(n, m=None, seed=0):
    scores = np.random.default_rng(seed).normal(size=(n, m or n)).astype("float32")
    return (scores + scores.T) / 2 if m is None else scores


BATCHES = {
    "four per class": np.repeat(np.arange(4), 4),
    "mixed": np.array([0, 0, 1, 2, 2, 2, 3]),
    "no positive pair": np.arange(6),
    "one class": np.zeros(5, int),
    "two items": np.array([0, 0]),
    "one item": np.array([0]),
}


@pytest.mark.parametrize("mode", backends.MODES)
@pytest.mark.parametrize("strategy", ["batch", "anchor", "pair"])
@pytest.mark.parametrize("batch", BATCHES)
def test_equals_naive_loops(mode, strategy, batch):
    labels = BATCHES[batch]
    for seed in range(5 if mode == "eager" else 1):
        scores = random_scores(len(labels), seed=seed)
        assert run(mode, scores, labels, strategy=strategy) == naive(scores, labels, strategy)


def test_batch_finds_the_published_quadruplet():
    scores = random_scores(16)
    labels = BATCHES["four per class"]
    ((i, j, k, l),) = run("eager", scores, labels)  # noqa: E741
    same = (labels[:, None] == labels[None]) & ~np.eye(16, dtype=bool)
    assert scores[i, j] == scores[same].min()
    assert scores[i, k] == scores[i][labels != labels[i]].max()
    assert scores[j, l] == scores[j][labels != labels[j]].max()


@pytest.mark.parametrize("strategy", ["batch", "anchor", "pair"])
def test_never_a_self_pair(strategy):
    # The diagonal would win both searches.
    for seed in range(10):
        scores = random_scores(12, seed=seed)
        for diagonal in (-100.0, 100.0):
            np.fill_diagonal(scores, diagonal)
            for labels in (np.repeat(np.arange(6), 2), np.arange(12), np.zeros(12, int)):
                for row in run("eager", scores, labels, strategy=strategy):
                    if row is not None:
                        assert len(set(row[:2])) == 2
                        assert row[2] != row[0]
                        assert row[3] != row[1]


@pytest.mark.parametrize("strategy", ["batch", "anchor", "pair"])
def test_invalid_rows_hold_indices_in_range(strategy):
    for labels in (np.arange(4), np.zeros(4, int)):
        quadruplets = hard_quadruplets(random_scores(4), labels, strategy=strategy)
        assert not np.any(quadruplets.valid)
        for field in quadruplets[:4]:
            assert np.all((np.asarray(field) >= 0) & (np.asarray(field) < 4))


@pytest.mark.parametrize("mode", ["eager", "jit"])
@pytest.mark.parametrize("strategy", ["batch", "anchor", "pair"])
def test_keys_equal_naive_loops(mode, strategy):
    labels, key_labels = np.array([0, 1, 1, 2]), np.array([1, 0, 2, 0, 1, 5])
    ids, key_ids = np.array([7, 8, 9, 10]), np.array([8, 7, -1, 3, 4, -1])
    for seed in range(1 if mode == "jit" else 10):
        scores = random_scores(4, 6, seed=seed)
        expected = naive(scores, labels, strategy, key_labels, ids, key_ids)
        assert run(mode, scores, labels, key_labels, ids, key_ids, strategy=strategy) == expected
        expected = naive(scores, labels, strategy, key_labels)
        assert run(mode, scores, labels, key_labels, strategy=strategy) == expected


def test_ids_join_rows_of_one_item():
    labels, ids = np.array([0, 0, 0, 1, 1]), np.array([4, 4, 5, 6, 6])
    for seed in range(5):
        scores = random_scores(5, seed=seed)
        rows = run("eager", scores, labels, ids=ids, strategy="anchor")
        assert rows == naive(scores, labels, "anchor", ids=ids)
        assert rows[3] is None  # its only fellow is the same item


def test_duplicates_and_ties_are_settled():
    labels = np.repeat(np.arange(3), 2)
    rows = run("eager", np.zeros((6, 6), "float32"), labels, strategy="anchor")
    assert rows == naive(np.zeros((6, 6)), labels, "anchor")


def test_half_precision_and_column_labels():
    scores = random_scores(8)
    labels = np.repeat(np.arange(4), 2)
    expected = naive(scores.astype("float16"), labels, "anchor")
    assert run("eager", scores.astype("float16"), labels[:, None], strategy="anchor") == expected


def test_wrong_arguments_are_refused():
    with pytest.raises(
        ValueError, match=r"`strategy` must be one of batch, anchor, pair\. Received: strategy='hardest'"
    ):
        hard_quadruplets(random_scores(4), np.zeros(4, int), strategy="hardest")
    with pytest.raises(ValueError, match=r"`scores` must have shape \(queries, keys\)"):
        hard_quadruplets(np.zeros(4), np.zeros(4, int))
