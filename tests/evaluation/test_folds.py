import numpy as np
import pytest

from keras_dml.evaluation import (
    RetrievalOptions,
    class_folds,
    concatenate_embeddings,
    evaluate_folds,
    evaluate_retrieval,
)


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("folds", [2, 4, 11])
def test_every_class_is_held_out_once_with_all_its_rows(folds, seed):
    labels = np.random.default_rng(1).integers(0, 11, 80) * 3
    seen = []
    for number, fold in enumerate(class_folds(labels, folds, seed)):
        assert fold.number == number
        np.testing.assert_array_equal(np.sort(np.concatenate([fold.train, fold.validation])), np.arange(80))
        assert not set(labels[fold.train]) & set(labels[fold.validation])
        np.testing.assert_array_equal(np.unique(labels[fold.validation]), fold.validation_classes)
        assert len(fold.validation_classes) in (11 // folds, -(-11 // folds))
        seen += list(fold.validation_classes)
    assert sorted(seen) == list(np.unique(labels))


def test_seed_shuffles_classes():
    labels = np.arange(40)

    def held_out(seed):
        return [tuple(fold.validation_classes) for fold in class_folds(labels, 4, seed)]

    assert held_out(None)[0] == tuple(range(10))
    assert held_out(1) == held_out(1) != held_out(2)


def test_number_of_folds_is_checked_at_once():
    for folds in (1, 4):
        with pytest.raises(ValueError, match="between 2 and the number of classes, 3"):
            class_folds([0, 1, 2], folds)


def test_folds_are_evaluated_separately_and_concatenated():
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(8), 6)
    centers = rng.standard_normal((3, 8, 4))
    embeddings = [5 * (c[labels] + rng.standard_normal((48, 4))) for c in centers]
    result = evaluate_folds(embeddings, labels, ks=(1, 3))
    for own, fold in zip(embeddings, result.separate, strict=True):
        assert fold.to_dict() == evaluate_retrieval(own, labels, ks=(1, 3)).to_dict()
    # Cosine similarity of the concatenation is the mean of the models' cosine similarities.
    units = [e / np.linalg.norm(e, axis=1, keepdims=True) for e in embeddings]
    similarity = np.mean([u @ u.T for u in units], axis=0) - 9 * np.eye(48)
    nearest = similarity.argmax(axis=1)
    np.testing.assert_array_equal(result.concatenated.neighbors[:, 0], nearest)
    np.testing.assert_allclose(np.linalg.norm(concatenate_embeddings(embeddings), axis=1), 1, rtol=1e-6)
    values = [fold.map_at_r for fold in result.separate]
    assert result.mean("map@r") == pytest.approx(np.mean(values))
    assert result.spread("map@r") == pytest.approx(np.std(values, ddof=1))
    assert result.to_dict()["separate"][1]["map@r"] == values[1]


def test_folds_with_galleries():
    rng = np.random.default_rng(3)
    queries, galleries = rng.standard_normal((2, 10, 4)), rng.standard_normal((2, 20, 4))
    result = evaluate_folds(list(queries), np.arange(10) % 4, list(galleries), np.arange(20) % 4)
    assert result.concatenated.neighbors.max() > 9
    for query, gallery, fold in zip(queries, galleries, result.separate, strict=True):
        expected = evaluate_retrieval(query, np.arange(10) % 4, gallery, np.arange(20) % 4)
        assert fold.to_dict() == expected.to_dict()
    with pytest.raises(ValueError, match="2 folds, 1 galleries"):
        evaluate_folds(list(queries), np.arange(10) % 4, list(galleries[:1]), np.arange(20) % 4)
    with pytest.raises(ValueError, match="same images"):
        concatenate_embeddings([queries[0], galleries[0]])


def test_by_euclidean_distance_embeddings_are_concatenated_as_they_are():
    generator = np.random.default_rng(0)
    parts, labels = [generator.normal(size=(20, 3)) * scale for scale in (1.0, 5.0)], np.arange(20) % 4
    options = RetrievalOptions(metric="euclidean")
    found = evaluate_folds(parts, labels, options=options)
    joined = np.concatenate(parts, axis=1).astype(np.float32)
    expected = evaluate_retrieval(joined, labels, options=options)
    np.testing.assert_array_equal(found.concatenated.neighbors, expected.neighbors)
    np.testing.assert_array_equal(
        found.separate[1].neighbors, evaluate_retrieval(parts[1], labels, options=options).neighbors
    )
