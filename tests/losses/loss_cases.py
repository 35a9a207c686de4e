"""Every loss beside a reference written from its formula with loops, in double precision, for the tests to compare."""

import dataclasses
import functools
import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dml import losses, mining


@keras.saving.register_keras_serializable(package="tests")
class FirstLastMiner(mining.Miner):
    """Draws the first positive and the last negative, so that a reference knows the triplets."""

    def sample(self, distances, positives, negatives, uniform, embedding_dim):
        first = ops.argmax(ops.cast(positives, "int32"), axis=1)
        ranks = ops.cast(negatives, "int32") * ops.arange(1, distances.shape[1] + 1)[None, :]
        return ops.cast(first, "int32"), ops.cast(ops.argmax(ranks, axis=1), "int32")


class Pairs:
    """Queries and keys with the pairs spelled out: for each query the rows of its positives and negatives."""

    def __init__(self, x, labels, keys=None, key_labels=None, ids=None, key_ids=None):
        self.x, self.labels = x, labels
        if keys is None:
            keys, key_labels = x, labels
            ids = key_ids = list(range(len(x)))
        self.keys = keys
        self.positives, self.negatives = [], []
        for i in range(len(x)):
            self.positives.append([])
            self.negatives.append([])
            for j in range(len(keys)):
                if key_ids is not None and key_ids[j] < 0:
                    continue
                if labels[i] != key_labels[j]:
                    self.negatives[i].append(j)
                elif key_ids is None or ids[i] != key_ids[j]:
                    self.positives[i].append(j)
        self.valid = [i for i in range(len(x)) if self.positives[i] and self.negatives[i]]
        self.usage = np.zeros(len(keys))

    def triplets(self):
        for i in self.valid:
            p, n = self.positives[i][0], self.negatives[i][-1]
            self.usage[p] += 1
            self.usage[n] += 1
            yield i, p, n


def distance(a, b):
    return math.sqrt(sum((u - v) ** 2 for u, v in zip(a, b, strict=True)))


def dot(a, b):
    return sum(u * v for u, v in zip(a, b, strict=True))


def norm(a):
    return math.sqrt(dot(a, a))


def unit(a):
    return [v / norm(a) for v in a] if norm(a) else list(a)


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def contrastive(pairs, weights):
    return mean(
        max(distance(pairs.x[i], pairs.keys[p]) - 0.0, 0.0) + max(1.0 - distance(pairs.x[i], pairs.keys[n]), 0.0)
        for i, p, n in pairs.triplets()
    )


def triplet(pairs, weights):
    return mean(
        max(distance(pairs.x[i], pairs.keys[p]) ** 2 - distance(pairs.x[i], pairs.keys[n]) ** 2 + 0.2, 0.0)
        for i, p, n in pairs.triplets()
    )


def margin(pairs, weights):
    total, active = 0.0, 0
    for i, p, n in pairs.triplets():
        beta = weights["boundaries"][pairs.labels[i]]
        pull = max(math.sqrt(distance(pairs.x[i], pairs.keys[p]) ** 2 + 1e-8) - beta + 0.2, 0.0)
        push = max(beta - math.sqrt(distance(pairs.x[i], pairs.keys[n]) ** 2 + 1e-8) + 0.2, 0.0)
        total += pull + push
        active += pull > 0 or push > 0
    return total / active if active else 0.0


def n_pair(pairs, weights):
    terms = []
    for i in pairs.valid:
        assert len(pairs.positives[i]) == 1, "the positive is drawn: give the reference no choice"
        a, p = [v / 4 for v in pairs.x[i]], [v / 4 for v in pairs.keys[pairs.positives[i][0]]]
        total = 1.0
        pairs.usage[pairs.positives[i][0]] += 1
        for n in pairs.negatives[i]:
            total += math.exp(dot(a, [v / 4 for v in pairs.keys[n]]) - dot(a, p))
            pairs.usage[n] += 1
        terms.append(math.log(total))
    return mean(terms) + (0.005 * mean(norm(a) / 4 for a in pairs.x) if terms else 0.0)


def generalized_lifted_structure(pairs, weights):
    terms = []
    for i in pairs.valid:
        pull = math.log(sum(math.exp(distance(pairs.x[i], pairs.keys[p])) for p in pairs.positives[i]))
        push = math.log(sum(math.exp(1.0 - distance(pairs.x[i], pairs.keys[n])) for n in pairs.negatives[i]))
        terms.append(max(pull + push, 0.0))
        if terms[-1] > 0:
            pairs.usage[pairs.positives[i] + pairs.negatives[i]] += 1
    return mean(terms) + (0.005 * mean(norm(a) for a in pairs.x) if terms else 0.0)


def multi_similarity(pairs, weights):
    terms = []
    for i in pairs.valid:
        scores = [dot(pairs.x[i], key) for key in pairs.keys]
        positives = [p for p in pairs.positives[i] if scores[p] - 0.1 < max(scores[n] for n in pairs.negatives[i])]
        negatives = [n for n in pairs.negatives[i] if scores[n] + 0.1 > min(scores[p] for p in pairs.positives[i])]
        if not positives or not negatives:
            continue
        pull = math.log(1 + sum(math.exp(-2.0 * (scores[p] - 0.5)) for p in positives)) / 2.0
        push = math.log(1 + sum(math.exp(40.0 * (scores[n] - 0.5)) for n in negatives)) / 40.0
        terms.append(pull + push)
        pairs.usage[positives + negatives] += 1
    return mean(terms)


def sup_con(pairs, weights):
    terms = []
    for i in range(len(pairs.x)):
        if not pairs.positives[i]:
            continue
        others = pairs.positives[i] + pairs.negatives[i]
        scores = [dot(pairs.x[i], key) / 0.1 for key in pairs.keys]
        total = sum(math.exp(scores[k]) for k in others)
        terms.append(-mean(math.log(math.exp(scores[p]) / total) for p in pairs.positives[i]))
        pairs.usage[others] += 1
    return mean(terms)


def spherical_embedding_constraint(pairs, weights):
    """Around the triplet loss, outside training and before any batch was seen: the mean is that of the batch."""
    lengths = [norm(a) for a in pairs.x]
    # No gradient flows through the mean, so it stays where it was at the points the gradient is taken at.
    centre = weights.setdefault("centre", mean(lengths))
    penalty = mean((length - centre) ** 2 for length in lengths)
    pairs.x = [unit(a) for a in pairs.x]
    pairs.keys = [unit(a) for a in pairs.keys]
    return triplet(pairs, weights) + 0.01 * penalty


def _logits(pairs, weights):
    return [[dot(unit(a), unit(p)) for p in weights["proxies"]] for a in pairs.x]


def _cross_entropy(logits, labels):
    return mean(math.log(sum(math.exp(v - row[y]) for v in row)) for row, y in zip(logits, labels, strict=True))


def normalized_softmax(pairs, weights):
    return _cross_entropy([[v / 0.05 for v in row] for row in _logits(pairs, weights)], pairs.labels)


def proxy_nca(pairs, weights):
    logits = [[-(distance(unit(a), unit(p)) ** 2) * 9 for p in weights["proxies"]] for a in pairs.x]
    return _cross_entropy(logits, pairs.labels)


def proxy_anchor(pairs, weights):
    cosines = _logits(pairs, weights)
    pull, push = [], []
    for c in range(len(weights["proxies"])):
        own = [row[c] for row, y in zip(cosines, pairs.labels, strict=True) if y == c]
        other = [row[c] for row, y in zip(cosines, pairs.labels, strict=True) if y != c]
        if own:
            pull.append(math.log(1 + sum(math.exp(-32 * (s - 0.1)) for s in own)))
        push.append(math.log(1 + sum(math.exp(32 * (s + 0.1)) for s in other)))
    return mean(pull) + mean(push)


def arcface(pairs, weights):
    logits = []
    for row, y in zip(_logits(pairs, weights), pairs.labels, strict=True):
        theta = math.acos(row[y])
        widened = math.cos(theta + 0.5) if theta + 0.5 < math.pi else row[y] - 0.5 * math.sin(0.5)
        logits.append([64 * (widened if c == y else v) for c, v in enumerate(row)])
    return _cross_entropy(logits, pairs.labels)


@dataclasses.dataclass(frozen=True)
class Case:
    make: Callable
    reference: Callable
    proxies: bool = False
    """Whether it compares with proxies: keys mean nothing."""
    normalized: bool = True
    one_positive: bool = False


CASES = {
    "contrastive": Case(lambda: losses.ContrastiveLoss(miner=FirstLastMiner()), contrastive),
    "triplet": Case(lambda: losses.TripletLoss(miner=FirstLastMiner()), triplet),
    "margin": Case(lambda: losses.MarginLoss(4, miner=FirstLastMiner()), margin),
    "n_pair": Case(losses.NPairLoss, n_pair, normalized=False, one_positive=True),
    "generalized_lifted_structure": Case(
        losses.GeneralizedLiftedStructureLoss, generalized_lifted_structure, normalized=False
    ),
    "multi_similarity": Case(losses.MultiSimilarityLoss, multi_similarity),
    "sup_con": Case(losses.SupConLoss, sup_con),
    "spherical_embedding_constraint": Case(
        lambda: losses.SphericalEmbeddingConstraint(losses.TripletLoss(miner=FirstLastMiner())),
        spherical_embedding_constraint,
        normalized=False,
    ),
    "normalized_softmax": Case(lambda: losses.NormalizedSoftmaxLoss(4, seed=1), normalized_softmax, proxies=True),
    "proxy_nca": Case(lambda: losses.ProxyNCALoss(4, seed=1), proxy_nca, proxies=True),
    "proxy_anchor": Case(lambda: losses.ProxyAnchorLoss(4, seed=1), proxy_anchor, proxies=True),
    "arcface": Case(lambda: losses.ArcFaceLoss(4, seed=1), arcface, proxies=True),
}
PAIR_CASES = [name for name, case in CASES.items() if not case.proxies]
# Twice each: enough positives and negatives for both kinds to be chosen among.
LABELS = np.array([0, 1, 2, 0, 1, 2, 2, 0])
PAIRED_LABELS = np.array([0, 1, 2, 0, 1, 2, 3, 3])


def points(case, seed=0, count=8):
    """`(count, 2)` points in double precision, on the unit circle where the loss expects that."""
    generator = np.random.default_rng(seed)
    angles = generator.uniform(0, 2 * np.pi, count)
    radii = np.ones(count) if case.normalized else generator.uniform(0.5, 2.0, count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]


def labels_for(case):
    return PAIRED_LABELS if case.one_positive else LABELS


def weights_of(loss):
    return {variable.name: np.asarray(variable.value, "float64") for variable in loss.trainable_variables}


def reference_gradient(function, x, step=1e-6):
    """Central differences of a scalar function of an array."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (function(ahead) - function(behind)) / (2 * step)
    return gradient


def value_and_gradients(loss, labels, x, jit=None, **arguments):
    """Value, gradient by x, gradients by the loss's weights and usage; eagerly or (jit True or False) in a graph."""
    x = tf.constant(x, arguments.pop("dtype", "float32"))
    if not loss.built:
        loss.build((None,), (None, x.shape[1]))

    def run(labels, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value, usage, *_ = loss.compute(losses.EmbeddingBatch.create(labels, x, **arguments))
        gradients = tape.gradient(
            value, [x, *loss.trainable_variables], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        usage = tf.zeros(0) if usage is None else usage
        return value, gradients[0], [tf.convert_to_tensor(gradient) for gradient in gradients[1:]], usage

    if jit is not None:
        # Compiling takes most of a test's time: a loss is compiled once for each shape.
        compiled = vars(loss).setdefault("compiled_for_tests", {})
        run = compiled.setdefault(jit, tf.function(run, jit_compile=jit))
    value, gradient, weight_gradients, usage = run(tf.constant(labels), x)
    return value.numpy(), gradient.numpy(), [found.numpy() for found in weight_gradients], usage.numpy()


@functools.cache
def shared_loss(name):
    """A loss that tests share, to compile it once."""
    return CASES[name].make()
