import backends
import keras
import numpy as np
import pytest
from backends import tensor, value_and_gradients
from loss_checks import FirstLastMiner

from keras_dml import losses


def batches(count, size=6, seed=0):
    generator = np.random.default_rng(seed)
    for _ in range(count):
        x = generator.normal(size=(size, 3)).astype("float32")
        yield generator.integers(0, 3, size), x / np.linalg.norm(x, axis=1, keepdims=True)


def in_order(memory):
    """What the memory holds, oldest first."""
    position, filled, size = int(memory.position), int(memory.filled), memory.memory_size
    rows = np.arange(position - filled, position) % size
    return np.asarray(memory.memory.value)[rows], np.asarray(memory.memory_labels.value)[rows]


@pytest.mark.parametrize("jit", [False, True])
def test_memory_holds_the_newest_and_the_loss_is_that_against_it(jit):
    memory, plain = losses.CrossBatchMemory(losses.MultiSimilarityLoss(), 14), losses.MultiSimilarityLoss()

    def step(labels, x):
        def loss(x):
            return tuple(memory.compute(losses.EmbeddingBatch.create(labels, x, training=True))[:2])

        (value, usage), (gradient,) = value_and_gradients(loss, [x], memory)
        return value, gradient, usage

    step = backends.compiled(step, jit, memory)
    memory.build((None,), (None, 3))
    seen, seen_labels = np.zeros((0, 3), "float32"), np.zeros(0, "int64")
    for labels, x in batches(6):
        value, gradient, usage = step(tensor(labels), tensor(x))
        seen, seen_labels = np.concatenate([seen, x])[-14:], np.concatenate([seen_labels, labels])[-14:]
        found, found_labels = in_order(memory)
        np.testing.assert_array_equal(found, seen)
        np.testing.assert_array_equal(found_labels, seen_labels)

        # The same, spelled out: the remembered items as keys, held fixed, the newest six being the batch itself.
        remembered = {
            "keys": seen,
            "key_labels": seen_labels,
            "ids": np.arange(len(seen) - 6, len(seen)),
            "key_ids": np.arange(len(seen)),
        }

        def spelled_out(x, labels=labels, remembered=remembered):
            return tuple(plain.compute(losses.EmbeddingBatch.create(labels, x, **remembered))[:2])

        (expected, counts), (expected_gradient,) = value_and_gradients(spelled_out, [x], plain)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(usage, counts[-6:])


def test_outside_training_the_memory_is_left_alone():
    memory, plain = losses.CrossBatchMemory(losses.MultiSimilarityLoss(), 20), losses.MultiSimilarityLoss()
    (labels, x), (other_labels, other) = batches(2)
    memory(labels, x, training=True)
    before = in_order(memory)
    assert float(memory(other_labels, other, training=False)) == float(plain(other_labels, other))
    assert float(memory(other_labels, other)) == float(plain(other_labels, other))
    for now, then in zip(in_order(memory), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize(
    "make",
    [
        lambda: losses.ContrastiveLoss(miner=FirstLastMiner()),
        lambda: losses.TripletLoss(miner="semi_hard"),
        lambda: losses.MarginLoss(3),
        losses.NPairLoss,
        losses.GeneralizedLiftedStructureLoss,
        losses.SupConLoss,
        lambda: losses.SphericalEmbeddingConstraint("triplet"),
    ],
)
def test_any_loss_of_pairs(make):
    memory = losses.CrossBatchMemory(make(), 12)
    memory.build((None,), (None, 3))

    def compute(labels, x):
        return memory.compute(losses.EmbeddingBatch.create(labels, x, training=True))[:2]

    step = backends.compiled(compute, not backends.TENSORFLOW, memory)
    for labels, x in batches(4):
        value, usage = step(labels, x)
        assert np.isfinite(value)
        assert usage.shape == (6,)


def test_memory_survives_saving(tmp_path):
    def held(loss):
        model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
        model.held = loss
        return model

    memory = losses.CrossBatchMemory(losses.TripletLoss(miner=FirstLastMiner()), 20)
    restored = losses.get(keras.saving.serialize_keras_object(memory))
    (labels, x), (more_labels, more) = batches(2)
    memory(labels, x, training=True)
    restored.build((None,), (None, 3))
    held(memory).save_weights(tmp_path / "a.weights.h5")
    held(restored).load_weights(tmp_path / "a.weights.h5")
    expected = float(memory(more_labels, more, training=True))
    assert float(restored(more_labels, more, training=True)) == expected


def test_what_it_cannot_do_is_refused():
    (labels, x), *_ = batches(1)
    with pytest.raises(ValueError, match="ProxyAnchorLoss"):
        losses.CrossBatchMemory(losses.ProxyAnchorLoss(3), 10)
    with pytest.raises(ValueError, match="`memory_size` must be at least"):
        losses.CrossBatchMemory("triplet", 5)(labels, x, training=True)
    with pytest.raises(ValueError, match="`memory_size` must be positive"):
        losses.CrossBatchMemory("triplet", 0)
    with pytest.raises(ValueError, match="brings its own keys"):
        losses.CrossBatchMemory("triplet", 10)(labels, x, keys=x, key_labels=labels)
