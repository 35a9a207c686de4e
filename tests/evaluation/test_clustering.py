import itertools

import numpy as np
import pytest

from keras_dml.evaluation import cluster_metrics
from keras_dml.evaluation.clustering import pairwise_f1


def naive_f1(labels, clusters):
    right = predicted = present = 0
    for i, j in itertools.combinations(range(len(labels)), 2):
        same_class, same_cluster = labels[i] == labels[j], clusters[i] == clusters[j]
        right += same_class and same_cluster
        predicted += same_cluster
        present += same_class
    if not right:
        return 0.0
    precision, recall = right / predicted, right / present
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("classes", [1, 4, 30])
@pytest.mark.parametrize("clusters", [1, 3, 30])
def test_f1_agrees_with_a_loop_over_pairs(classes, clusters):
    rng = np.random.default_rng(classes * 100 + clusters)
    labels, assigned = rng.integers(0, classes, 40), rng.integers(0, clusters, 40)
    assert pairwise_f1(labels, assigned) == pytest.approx(naive_f1(labels, assigned), abs=1e-12)


def test_f1_without_a_right_pair_is_zero():
    assert pairwise_f1(np.arange(4), np.zeros(4, int)) == 0.0
    assert pairwise_f1(np.zeros(4, int), np.arange(4)) == 0.0


def test_nmi_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    vectors, labels = rng.standard_normal((80, 5)), rng.integers(0, 6, 80)
    result = cluster_metrics(vectors, labels)
    joint = np.zeros((6, 6))
    np.add.at(joint, (labels, result.assignments), 1 / 80)
    rows, columns = joint.sum(1), joint.sum(0)

    def entropy(p):
        return -sum(x * np.log(x) for x in p if x > 0)

    information = entropy(rows) + entropy(columns) - entropy(joint.ravel())
    assert result.nmi == pytest.approx(2 * information / (entropy(rows) + entropy(columns)))


def test_separated_classes_are_found():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(5), 12)
    vectors = np.eye(5)[labels] * 3 + 0.01 * rng.standard_normal((60, 5))
    result = cluster_metrics(vectors, labels)
    assert (result.nmi, result.ami, result.f1) == pytest.approx((1, 1, 1))


def test_number_of_clusters_and_seed():
    rng = np.random.default_rng(2)
    vectors, labels = rng.standard_normal((90, 4)), rng.integers(0, 9, 90)
    assert len(np.unique(cluster_metrics(vectors, labels).assignments)) == 9
    assert len(np.unique(cluster_metrics(vectors, labels, clusters=4).assignments)) == 4
    assert len(np.unique(cluster_metrics(vectors, labels, clusters=500).assignments)) == 90
    first, again, other = (cluster_metrics(vectors, labels, seed=seed).assignments for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_normalize_ignores_lengths():
    rng = np.random.default_rng(3)
    vectors, labels = rng.standard_normal((60, 4)), rng.integers(0, 5, 60)
    stretched = vectors * rng.uniform(0.1, 9, (60, 1))
    np.testing.assert_array_equal(
        cluster_metrics(vectors, labels).assignments, cluster_metrics(stretched, labels).assignments
    )
    assert (
        cluster_metrics(vectors, labels, normalize=False).assignments
        != cluster_metrics(stretched, labels, normalize=False).assignments
    ).any()


def test_collapsed_embeddings_and_wrong_arguments():
    result = cluster_metrics(np.ones((10, 3)), np.arange(10) % 2)
    assert result.nmi == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="`clusters` must be positive"):
        cluster_metrics(np.ones((4, 2)), [0, 0, 1, 1], clusters=0)
    with pytest.raises(ValueError, match="equally many"):
        cluster_metrics(np.ones((4, 2)), [0, 0, 1])
