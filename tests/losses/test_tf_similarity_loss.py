import json
import subprocess
import sys

import backends
import keras
import numpy as np
import pytest

from keras_dml import MetricLearner, losses

if backends.TENSORFLOW:
    import tensorflow as tf

NEEDS_IT = backends.tensorflow_only("tensorflow-similarity")

NAMES = {
    "multi_similarity": "MultiSimilarityLoss",
    "triplet": "TripletLoss",
    "circle": "CircleLoss",
    "pn": "PNLoss",
    "soft_nearest_neighbor": "SoftNearestNeighborLoss",
}
ARGUMENTS = {
    "multi_similarity": {"alpha": 3.0, "distance": "cosine"},
    "triplet": {"margin": 0.3, "distance": "sql2", "negative_mining_strategy": "hard"},
    "circle": {"gamma": 16.0},
    "pn": {"margin": 0.2, "positive_mining_strategy": "easy"},
    "soft_nearest_neighbor": {"temperature": 0.5, "distance": "l2"},
}
LABELS = np.repeat(np.arange(4), 3)


def embeddings(seed=0):
    x = np.random.default_rng(seed).normal(size=(12, 4)).astype("float32")
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def library():
    from tensorflow_similarity import losses as tfsim

    return tfsim


def outside_keras(instance, x):
    """The library's own function in eager mode, mean over its rows: value and gradient."""
    labels, x = tf.constant(LABELS[:, None]), tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_mean(instance.fn(labels, x, labels, x, **instance._fn_kwargs))
    return value.numpy(), tape.gradient(value, x).numpy()


@NEEDS_IT
@pytest.mark.parametrize("arguments", [{}, ARGUMENTS], ids=["defaults", "arguments"])
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_the_library_s(name, arguments):
    arguments = arguments.get(name, {})
    instance = getattr(library(), NAMES[name])(reduction="sum_over_batch_size", **arguments)
    value, gradient = outside_keras(instance, embeddings())
    built, adapted = losses.similarity(name, **arguments), losses.get(instance)
    restored = losses.get(json.loads(json.dumps(keras.saving.serialize_keras_object(adapted))))
    for loss, jit in ((built, None), (built, False), (built, True), (adapted, False), (restored, False)):
        # The labels' type and rank must not matter; 1-D ones are what the library stumbles over in Keras 3.
        for labels in (LABELS, LABELS[:, None].astype("int32")) if jit is False else (LABELS,):

            def run(labels, x, loss=loss):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    found = loss(labels, x)
                return found, tape.gradient(found, x)

            if jit is not None:
                run = tf.function(run, jit_compile=jit)
            found, found_gradient = run(tf.constant(labels), tf.constant(embeddings()))
            assert found.shape == ()
            np.testing.assert_allclose(found, value, rtol=1e-5)
            np.testing.assert_allclose(found_gradient, gradient, rtol=1e-4, atol=1e-4 * np.abs(gradient).max())


@NEEDS_IT
def test_reductions():
    rows = losses.similarity("triplet", margin=0.2)
    total = losses.get(library().TripletLoss(margin=0.2, reduction="sum"))
    assert float(total(LABELS, embeddings())) == pytest.approx(12 * float(rows(LABELS, embeddings())), rel=1e-5)
    with pytest.raises(ValueError, match="`reduction` must be one of"):
        losses.get(library().TripletLoss(reduction="none"))


@NEEDS_IT
def test_unknown_batch_size_and_half_precision():
    loss = losses.similarity("multi_similarity")
    expected = float(loss(LABELS, embeddings()))
    graph = tf.function(loss, input_signature=[tf.TensorSpec((None,), "int64"), tf.TensorSpec((None, 4), "float32")])
    assert float(graph(LABELS, embeddings())) == pytest.approx(expected, rel=1e-5)
    half = loss(LABELS, tf.cast(embeddings(), "bfloat16"))
    assert half.dtype == tf.float32
    assert float(half) == pytest.approx(expected, rel=0.02)


@NEEDS_IT
def test_keys():
    x, keys = embeddings(), embeddings(1)
    for name in ("multi_similarity", "triplet", "circle"):
        loss = losses.similarity(name)
        instance = getattr(library(), NAMES[name])(reduction="none")
        expected = tf.reduce_mean(
            instance.fn(LABELS[:5, None], x[:5], LABELS[:, None], keys, remove_diagonal=False, **instance._fn_kwargs)
        )
        np.testing.assert_allclose(loss(LABELS[:5], x[:5], keys=keys, key_labels=LABELS), expected, rtol=1e-5)
        with pytest.raises(ValueError, match="cannot exclude self pairs"):
            loss(LABELS, x, keys=keys, key_labels=LABELS, ids=np.arange(12), key_ids=np.arange(12))
    for name in ("pn", "soft_nearest_neighbor"):
        with pytest.raises(ValueError, match="takes no `keys`"):
            losses.similarity(name)(LABELS, x, keys=keys, key_labels=LABELS)
    with pytest.raises(ValueError, match="cannot exclude self pairs"):
        losses.CrossBatchMemory(losses.similarity("triplet"), 20)(LABELS, x, training=True)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("multi_negatives_rank", "NPairLoss"),
        ("MultiNegativesRankLoss", "NPairLoss"),
        ("xbm", "CrossBatchMemory"),
        ("simclr", "SupConLoss"),
        ("simsiam", "SupConLoss"),
        ("barlow", "SupConLoss"),
        ("VicReg", "SupConLoss"),
    ],
)
def test_losses_without_labels_are_refused_with_a_way_out(name, hint):
    with pytest.raises(ValueError, match=f"cannot be used here.*{hint}"):
        losses.similarity(name)


@NEEDS_IT
def test_instances_that_cannot_be_adapted_are_refused():
    tfsim = library()
    for instance in (tfsim.SimCLRLoss(), tfsim.VicReg(), tfsim.MultiNegativesRankLoss(reduction="none")):
        with pytest.raises(ValueError, match="cannot be used here"):
            losses.get(instance)
    xbm = tfsim.XBM(tfsim.MultiSimilarityLoss(reduction="none"), 10, reduction="none")
    with pytest.raises(ValueError, match="CrossBatchMemory"):
        losses.get(xbm)

    class Mine(tfsim.TripletLoss):
        pass

    with pytest.raises(ValueError, match="A subclass"):
        losses.get(Mine(reduction="none"))


def test_unknown_names():
    with pytest.raises(ValueError, match=r"'triplet'.*Known: circle"):
        losses.similarity("tripelt")


@NEEDS_IT
def test_unknown_arguments():
    with pytest.raises(ValueError, match=r"Unknown argument 'marign'.*'margin'"):
        losses.similarity("triplet", marign=0.1)
    with pytest.raises(ValueError, match="does not take these arguments"):
        losses.similarity("triplet", distance="nearby")
    assert losses.similarity("MultiSimilarityLoss").loss == "multi_similarity"


@NEEDS_IT
def test_a_compiled_model_is_saved_and_restored(tmp_path):
    encoder = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3), keras.layers.UnitNormalization()])
    model = MetricLearner(encoder)
    model.compile("sgd", loss=library().TripletLoss(margin=0.4, distance="sql2", reduction="sum_over_batch_size"))
    model.fit(embeddings(), LABELS, batch_size=12, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert restored.embedding_loss.get_config()["arguments"]["margin"] == 0.4
    expected = model.evaluate(embeddings(), LABELS, batch_size=12, verbose=0)
    assert restored.evaluate(embeddings(), LABELS, batch_size=12, verbose=0) == pytest.approx(expected)


def test_the_library_is_imported_only_when_asked_for():
    script = (
        "import sys, keras_dml.losses as losses; losses.get('triplet'); "
        "sys.exit(any(name.startswith('tensorflow_similarity') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.skipif(backends.TENSORFLOW, reason="what other backends are told")
def test_other_backends_are_told_what_to_use():
    with pytest.raises(ValueError, match=r"need the TensorFlow backend\. Received: jax"):
        losses.similarity("multi_similarity")
