"""Trains one step after another on some number of devices, and saves all that came out.

Run by test_devices.py in processes of their own: the number of devices is fixed when a backend starts.

    python train_on_devices.py DEVICES OUTPUT CASE ...         a case is LOSS or LOSS+das
    python train_on_devices.py 2 OUTPUT CASE ... --process 0 --address 127.0.0.1:PORT     one of two processes
"""

import argparse
import contextlib
import inspect
import os
import sys

parser = argparse.ArgumentParser()
parser.add_argument("devices", type=int)
parser.add_argument("output")
parser.add_argument("cases", nargs="+")
parser.add_argument("--process", type=int)
parser.add_argument("--address")
ARGUMENTS = parser.parse_args()
LOCAL = 1 if ARGUMENTS.process is not None else ARGUMENTS.devices
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={LOCAL}"

import keras  # noqa: E402  XLA reads its flags when it starts
import numpy as np  # noqa: E402

STEPS, BATCH, CLASSES, INPUTS, DIM = 12, 16, 4, 10, 8


def start():
    """Sets up the devices; the strategy, on TensorFlow and several of them."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * ARGUMENTS.devices)
        if ARGUMENTS.devices == 1:
            return None
        return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(ARGUMENTS.devices)])
    if ARGUMENTS.process is not None:
        keras.distribution.initialize(ARGUMENTS.address, num_processes=2, process_id=ARGUMENTS.process)
    if ARGUMENTS.devices > 1:
        devices = keras.distribution.list_devices()
        assert len(devices) == ARGUMENTS.devices, devices
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))
    return None


def make_loss(name):
    from keras_dml import losses, mining

    if name.startswith("tfsim:"):
        return losses.similarity(name.removeprefix("tfsim:"))
    loss = losses.loss_class(name)
    known = {
        "num_classes": CLASSES,
        "seed": 1,
        "miner": mining.DistanceWeightedMiner(seed=1),
        "loss": losses.MultiSimilarityLoss(),
        "memory_size": 128,
        "widths": (4, DIM),
    }
    return loss(**{key: value for key, value in known.items() if key in inspect.signature(loss).parameters})


def train(case):
    import keras_dml as dml

    name, _, das = case.partition("+")
    loss = make_loss(name)
    unit = loss.normalized_inputs is not False
    layers = [
        keras.Input((INPUTS,)),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.BatchNormalization(synchronized=keras.backend.backend() == "tensorflow"),
        keras.layers.Dense(DIM),
        *([keras.layers.UnitNormalization()] if unit else []),
    ]
    model = dml.MetricLearner(
        keras.Sequential(layers),
        augmentation=dml.layers.DASAugmentation(CLASSES, top_k=2, normalize=unit, seed=2) if das else None,
        pair_scorer=dml.layers.PDDMUnit(seed=3) if loss.needs_pair_scorer else None,
        l2_decay=1e-3,
        clip_norm=0.1,
    )
    model.compile(keras.optimizers.Adam(1e-3), loss=loss, loss_optimizer=keras.optimizers.Adam(1e-3))
    random = np.random.default_rng(0)
    images = random.normal(size=(STEPS * BATCH, INPUTS)).astype("float32")
    labels = random.integers(0, CLASSES, STEPS * BATCH).astype("int32")
    batch = BATCH
    if ARGUMENTS.process is not None:
        # A process brings its own part of every batch.
        own = np.arange(STEPS * BATCH).reshape(STEPS, 2, BATCH // 2)[:, ARGUMENTS.process].reshape(-1)
        images, labels, batch = images[own], labels[own], BATCH // 2
    history = model.fit(images, labels, batch_size=batch, shuffle=False, verbose=0).history
    values = {f"log {key}": np.asarray(value, np.float32) for key, value in history.items()}
    return values | {f"{place} {variable.name}": np.asarray(variable) for place, variable in enumerate(model.variables)}


def main():
    strategy = start()
    found = {}
    for case in ARGUMENTS.cases:
        # Not `clear_session`, which forgets the distribution too.
        keras.utils.set_random_seed(1)
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            found |= {f"{case}|{name}": value for name, value in train(case).items()}
    np.savez(ARGUMENTS.output, **found)


if __name__ == "__main__":
    sys.exit(main())
