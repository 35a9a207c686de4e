"""What would train something else on several devices than on one, and is refused in one sentence."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_dml as dml
from zoo import recipes
from zoo.devices import Devices, check_batches

ROOT = pathlib.Path(__file__).parents[2]
TENSORFLOW = keras.backend.backend() == "tensorflow"
tensorflow_only = pytest.mark.skipif(not TENSORFLOW, reason="tf.distribute is TensorFlow's")

# In a process of its own: TensorFlow divides the CPU once, when it starts.
REPLICAS = """
import json
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras_dml as dml

def learner(norm=None, **options):
    layers = [keras.Input((5,)), keras.layers.Dense(6), *([norm] if norm else []), keras.layers.UnitNormalization()]
    model = dml.MetricLearner(keras.Sequential(layers), **options.pop("model", {}))
    model.compile("sgd", loss="multi_similarity", **options)
    return model

def refused(make):
    try:
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            make()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None

batch = tf.data.Dataset.from_tensor_slices((np.zeros((7, 5), "float32"), np.arange(7, dtype="int32") % 2)).batch(7)
norm = keras.layers.BatchNormalization
print(json.dumps({
    "plain": refused(lambda: learner(norm())),
    "synchronized": refused(lambda: learner(norm(synchronized=True))),
    "frozen": refused(lambda: learner(norm(), model={"frozen_batch_norm": True})),
    "steps": refused(lambda: learner(steps_per_execution=3)),
    "uneven": refused(lambda: learner().fit(batch, verbose=0)),
}))
"""


@pytest.fixture(scope="module")
def answers():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@tensorflow_only
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("plain", ("ValueError", "statistics of a replica's own rows", "synchronized=True", "frozen_batch_norm=True")),
        ("steps", ("ValueError", "several steps in one call", "steps_per_execution=3, 2 replicas")),
        ("uneven", ("ValueError: A batch must divide by the replicas",)),
    ],
)
def test_replicas(answers, case, words):
    for word in words:
        assert word in answers[case]


@tensorflow_only
def test_what_trains_alike_is_taken(answers):
    assert answers["synchronized"] is None
    assert answers["frozen"] is None


def encoder():
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(6), keras.layers.UnitNormalization()])


@tensorflow_only
def test_several_hosts_are_refused_and_the_way_is_named():
    import tensorflow as tf

    with (
        tf.distribute.MultiWorkerMirroredStrategy().scope(),
        pytest.raises(ValueError, match=r"issue 20585.*JAX backend.*initialize.*DataParallel"),
    ):
        dml.MetricLearner(encoder())


@tensorflow_only
def test_a_distribution_that_this_backend_ignores_is_refused(monkeypatch):
    monkeypatch.setattr(keras.distribution, "distribution", lambda: object())
    with pytest.raises(ValueError, match=r"no effect on the tensorflow backend.*KERAS_BACKEND=jax"):
        dml.MetricLearner(encoder())


def test_chunks_need_an_encoder_that_embeds_an_image_alike():
    layers = keras.layers
    for layer in (layers.BatchNormalization(name="norm"), layers.Dropout(0.5, name="drop")):
        unfit = keras.Sequential([keras.Input((5,)), layers.Dense(6), layer, layers.UnitNormalization()])
        with pytest.raises(ValueError, match=rf"`chunk_size` embeds .*Received: {layer.name}.*frozen_batch_norm=True"):
            dml.MetricLearner(unfit, chunk_size=2)
        dml.MetricLearner(unfit, chunk_size=2, frozen_batch_norm=True)
    with pytest.raises(ValueError, match="chunk_size=0"):
        dml.MetricLearner(encoder(), chunk_size=0)


@pytest.mark.parametrize("chunk_size", [1, 5, 12, 64])
def test_chunks_give_the_gradient_of_the_whole(chunk_size):
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (24, 8, 8, 3)).astype("float32")
    labels = (np.arange(24) % 4).astype("int32")
    found = []
    for size in (None, chunk_size):
        keras.utils.set_random_seed(1)
        network = dml.backbones.build("small_conv", embedding_dim=6, input_shape=(8, 8, 3))
        model = dml.MetricLearner(
            network,
            augmentation=dml.layers.DASAugmentation(4, top_k=2, seed=2),
            frozen_batch_norm=True,
            l2_decay=1e-3,
            clip_norm=0.1,
            chunk_size=size,
        )
        model.compile(keras.optimizers.Adam(1e-3), loss=dml.losses.ProxyAnchorLoss(4, seed=1))
        history = model.fit(images, labels, batch_size=12, epochs=2, shuffle=False, verbose=0).history
        found.append([*map(np.asarray, model.variables), *history["loss"]])
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_allclose(parts, whole, atol=2e-6, rtol=2e-5)


def test_losses_that_the_encoder_adds_are_trained_on():
    regularizer = keras.regularizers.L2(0.5)
    inputs = keras.Input((5,))
    outputs = keras.layers.Dense(6, kernel_regularizer=regularizer, name="dense")(inputs)
    network = keras.Model(inputs, keras.layers.UnitNormalization()(outputs))
    model = dml.MetricLearner(network)
    model.compile(keras.optimizers.SGD(0.0), loss="multi_similarity")
    images = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3], "int32")
    value = np.ravel(model.evaluate(images, labels, verbose=0))[0]
    kernel = np.asarray(network.get_layer("dense").kernel, "float64")
    plain = float(dml.losses.MultiSimilarityLoss()(labels, network.predict(images, verbose=0)))
    assert value == pytest.approx(plain + 0.5 * np.sum(kernel**2), rel=1e-5)


def test_batches_that_devices_do_not_divide_are_refused_before_training():
    with pytest.raises(ValueError, match=r"--devices 3: the batch of arm 'baseline'.*5 x images_per_class=2 = 10"):
        check_batches(recipes.get("digits"), 3)
    check_batches(recipes.get("digits"), 5)


def test_more_devices_than_there_are():
    with pytest.raises(ValueError, match=r"--devices 512: there are \d"):
        Devices(512)
