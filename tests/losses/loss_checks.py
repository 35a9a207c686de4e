"""What a reference of a loss is written with, in plain loops and double precision, and how it is compared."""

import dataclasses
import math
from collections.abc import Callable

import backends
import keras
import numpy as np
from keras import ops

from keras_dml import losses, mining
from keras_dml.losses.registry import required_arguments


@keras.saving.register_keras_serializable(package="tests")
class FirstLastMiner(mining.Miner):
    """Draws the first positive and the last negative, so that a reference knows the triplets."""

    def sample(self, distances, positives, negatives, uniform, embedding_dim):
        first = ops.argmax(ops.cast(positives, "int32"), axis=1)
        ranks = ops.cast(negatives, "int32") * ops.arange(1, ops.shape(distances)[1] + 1)[None, :]
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


def cosines_with_proxies(pairs, weights):
    return [[dot(unit(a), unit(p)) for p in weights["proxies"]] for a in pairs.x]


def cross_entropy(logits, labels):
    return mean(math.log(sum(math.exp(v - row[y]) for v in row)) for row, y in zip(logits, labels, strict=True))


@dataclasses.dataclass(frozen=True)
class Case:
    make: Callable
    reference: Callable
    proxies: bool = False
    """Whether it compares with proxies: keys mean nothing."""
    normalized: bool = True
    one_positive: bool = False


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
    x = backends.tensor(x, arguments.pop("dtype", "float32"))
    if not loss.built:
        loss.build((None,), (None, x.shape[1]))

    def run(labels, x):
        def compute(x):
            return tuple(loss.compute(losses.EmbeddingBatch.create(labels, x, **arguments))[:2])

        (value, usage), gradients = backends.value_and_gradients(compute, [x], loss, unconnected=True)
        return value, gradients[0], gradients[1:], ops.zeros(0) if usage is None else usage

    if jit is not None:
        # Compiling takes most of a test's time: a loss is compiled once for each shape.
        compiled = vars(loss).setdefault("compiled_for_tests", {})
        run = compiled.setdefault(jit, backends.compiled(run, jit, loss))
    value, gradient, weight_gradients, usage = run(backends.tensor(labels), x)
    return np.asarray(value), np.asarray(gradient), [np.asarray(found) for found in weight_gradients], np.asarray(usage)


def make_loss(name, num_classes):
    """The loss called `name` at its defaults; what has none is filled in."""
    given = {"num_classes": num_classes, "loss": losses.MarginLoss(num_classes), "memory_size": 60, "widths": (2, 4)}
    loss = losses.loss_class(name)
    return loss(**{argument: given[argument] for argument in required_arguments(loss)})
