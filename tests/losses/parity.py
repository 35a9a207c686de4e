"""What every loss, miner and DAS compute from fixed inputs, weights and draws, to be compared between backends.

The reference was computed on TensorFlow and stands in parity.npz. To write it anew:

    PYTHONPATH=.:tests python tests/losses/parity.py
"""

import pathlib
from unittest import mock

import backends
import keras
import numpy as np
from keras import ops
from loss_checks import make_loss

from keras_dml import layers, losses, mining

REFERENCE = pathlib.Path(__file__).with_name("parity.npz")
CLASSES, DIM, STEPS = 6, 8, 2
LABELS = np.tile(np.arange(CLASSES), 4).astype("int32")
CASES = [*losses.names(), *(f"{name} miner" for name in mining.names()), "das"]


def batch(step, unit=True):
    x = np.random.default_rng(step).normal(size=(len(LABELS), DIM))
    return (x / (np.linalg.norm(x, axis=1, keepdims=True) if unit else 1.0)).astype("float32")


class Draws:
    """In the place of `keras.random.uniform`: numbers of numpy's, which are the same everywhere."""

    def __init__(self):
        self.generator = np.random.default_rng(99)

    def __call__(self, shape, minval=0.0, maxval=1.0, dtype="float32", seed=None):
        found = self.generator.uniform(minval, maxval, [int(size) for size in shape])
        return backends.tensor(found.astype(dtype))


def own_draws():
    """What the backend draws itself, from a given seed."""
    return np.asarray(keras.random.uniform((8,), seed=keras.random.SeedGenerator(1)))


def compute(case):
    """Arrays by name."""
    with mock.patch.object(keras.random, "uniform", Draws()):
        if case == "das":
            return _das()
        return _miner(case.removesuffix(" miner")) if case.endswith(" miner") else _loss(case)


def _loss(name):
    loss = make_loss(name, CLASSES)
    loss.build((None,), (None, DIM))
    owners = [loss]
    scorer = None
    if loss.needs_pair_scorer:
        scorer = layers.PDDMUnit()
        scorer.build([(None, DIM)] * 2)
        owners.append(scorer)
    random = np.random.default_rng(7)
    for owner in owners:
        for variable in owner.trainable_variables:
            variable.assign(random.normal(0.5, 0.5, variable.shape))
    found = {}
    for step in range(STEPS):

        def run(x):
            given = losses.EmbeddingBatch.create(LABELS, x, pair_scorer=scorer, training=True)
            return tuple(loss.compute(given)[:2])

        x = batch(step, unit=loss.normalized_inputs is not False)
        (value, counts), gradients = backends.value_and_gradients(run, [x], *owners, unconnected=True)
        found[f"value {step}"] = value
        found |= {f"gradient {number} {step}": gradient for number, gradient in enumerate(gradients)}
        if counts is not None:
            found[f"counts {step}"] = counts
    return _arrays(found | _state(loss))


def _miner(name):
    x = batch(0)
    distances = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    same = LABELS[:, None] == LABELS[None]
    found = mining.get(name)(distances, same & ~np.eye(len(x), dtype=bool), ~same, embedding_dim=DIM)
    return _arrays(found._asdict())


def _das():
    layer = layers.DASAugmentation(CLASSES, top_k=3, scale_range=(0.5, 2.0), shift_scale=0.3, detach=False)
    layer.build((None, DIM))
    weight = np.random.default_rng(8).normal(size=(4 * len(LABELS), DIM)).astype("float32")
    found = {}
    for step in range(STEPS):

        def run(x):
            union, _ = layer(x, LABELS, training=True)
            return ops.sum(union * weight), union

        (value, union), (gradient,) = backends.value_and_gradients(run, [batch(step)], layer)
        found |= {f"value {step}": value, f"union {step}": union, f"gradient {step}": gradient}
    return _arrays(found | _state(layer))


def _state(layer):
    """Memories, counts and running means; not where generators stand."""
    return {
        f"state {number} {variable.name}": variable
        for number, variable in enumerate(layer.non_trainable_variables)
        if "seed" not in variable.name
    }


def _arrays(found):
    return {name: np.asarray(value) for name, value in found.items()}


if __name__ == "__main__":
    assert backends.TENSORFLOW, keras.backend.backend()
    values = {f"{case}|{name}": value for case in CASES for name, value in compute(case).items()}
    np.savez_compressed(REFERENCE, own_draws=own_draws(), **values)
