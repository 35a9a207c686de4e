"""What `fit` finds out at the end of an epoch."""

import re
import warnings

import backends
import keras
import numpy as np
import pytest
from keras import ops

import keras_dml as dml
from keras_dml import losses
from keras_dml.losses import unusable_batches

CLASSES = 4
PAIRS_NEEDED = "held no positive pair.*two images of a class"
SETTINGS = {"batch_size": 12, "shuffle": False, "verbose": 0}


def encoder(seed=3):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(6), keras.layers.UnitNormalization()])


def data(classes=CLASSES, n=24):
    x = np.random.default_rng(0).normal(size=(n, 5)).astype("float32")
    return x, (np.arange(n) % classes).astype("int32")


def learner(loss, augmentation=None, rate=0.01, model=None):
    scorer = dml.layers.PDDMUnit() if losses.get(loss).needs_pair_scorer else None
    model = dml.MetricLearner(model or encoder(), augmentation=augmentation, pair_scorer=scorer)
    model.compile(keras.optimizers.SGD(rate), loss=loss)
    return model


PAIR_LOSSES = {
    "contrastive": losses.ContrastiveLoss,
    "triplet": losses.TripletLoss,
    "margin": losses.MarginLoss,
    "n_pair": losses.NPairLoss,
    "generalized_lifted_structure": losses.GeneralizedLiftedStructureLoss,
    "multi_similarity": losses.MultiSimilarityLoss,
    "sup_con": losses.SupConLoss,
    "double_header_hinge": losses.DoubleHeaderHinge,
    "tfsim": lambda: losses.similarity("triplet"),
    "constrained": lambda: losses.SphericalEmbeddingConstraint("multi_similarity"),
    "memory": lambda: losses.CrossBatchMemory(losses.TripletLoss(), 24),
    "memory of hinges": lambda: losses.CrossBatchMemory(losses.DoubleHeaderHinge(), 24),
    "constrained memory": lambda: losses.SphericalEmbeddingConstraint(losses.CrossBatchMemory("triplet", 24)),
}
PAIR_NAMES = [
    pytest.param(name, marks=[backends.tensorflow_only("tensorflow-similarity")] * (name == "tfsim"))
    for name in PAIR_LOSSES
]


@pytest.mark.parametrize("name", PAIR_NAMES)
def test_batches_without_a_positive_pair(name):
    model = learner(PAIR_LOSSES[name]())
    x, _ = data()
    with pytest.raises(ValueError, match=PAIRS_NEEDED):
        model.fit(x, np.arange(24), **SETTINGS)


@pytest.mark.parametrize("name", PAIR_NAMES)
def test_batches_of_one_class(name):
    model = learner(PAIR_LOSSES[name]())
    x, _ = data()
    if name == "sup_con":
        assert model.fit(x, np.zeros(24, int), **SETTINGS).history["loss"][0] > 0
        return
    with pytest.raises(ValueError, match=r"held no negative pair.*two classes"):
        model.fit(x, np.zeros(24, int), **SETTINGS)


def test_positives_of_other_batches_are_enough_for_a_memory():
    x, _ = data()
    labels = np.tile(np.arange(12), 2)
    assert learner(losses.CrossBatchMemory("triplet", 24)).fit(x, labels, **SETTINGS).history["loss"][0] > 0
    # One batch in the epoch with pairs is enough, too.
    learner("triplet").fit(x, np.array([*range(12), *range(6), *range(6)]), **SETTINGS)


def test_validation_does_not_hide_it():
    x, labels = data()
    with pytest.raises(ValueError, match=PAIRS_NEEDED):
        learner("triplet").fit(x, np.arange(24), validation_data=(x, labels), **SETTINGS)


@pytest.mark.parametrize("steps", [1, 3])
def test_several_steps_per_execution(steps):
    model = dml.MetricLearner(encoder())
    model.compile("sgd", loss="multi_similarity", steps_per_execution=steps, jit_compile=steps == 3)
    x = np.random.default_rng(0).normal(size=(36, 5)).astype("float32")
    with pytest.raises(ValueError, match=PAIRS_NEEDED):
        model.fit(x, np.arange(36), **SETTINGS)


def wrapped_margin(wrap):
    x, labels = data(classes=8)
    model = learner(losses.CrossBatchMemory(losses.MarginLoss(3), 24) if wrap else losses.MarginLoss(3))
    before = model.encoder.get_weights()
    with pytest.raises(ValueError, match="label lies outside") as error:
        model.fit(x, labels, **SETTINGS)
    for now, then in zip(model.encoder.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    return re.sub(r"margin_loss(_\d+)?", "margin_loss", str(error.value))


def test_labels_without_a_weight_inside_a_memory():
    assert wrapped_margin(True) == wrapped_margin(False)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda loss: losses.CrossBatchMemory(loss, 24),
        losses.SphericalEmbeddingConstraint,
        lambda loss: losses.SphericalEmbeddingConstraint(losses.CrossBatchMemory(loss, 24)),
    ],
)
def test_statistics_of_a_wrapped_loss_are_logged(wrap):
    history = learner(wrap(losses.DoubleHeaderHinge())).fit(*data(), **SETTINGS).history
    assert {"score_gap", "active_hinges", "embedding_spread", "active_pairs"} <= set(history)


def identity():
    layer = keras.layers.Dense(5, use_bias=False, kernel_initializer="identity")
    return keras.Sequential([keras.Input((5,)), layer])


def separate():
    """Two classes at right angles to each other, all rows of a class the same."""
    labels = np.tile([0, 1], 12)
    return np.eye(5, dtype="float32")[labels], labels


@pytest.mark.parametrize(
    "make",
    [
        losses.MultiSimilarityLoss,
        losses.TripletLoss,
        lambda: losses.TripletLoss(miner="random"),
        lambda: losses.ContrastiveLoss(positive_margin=0.5),
        lambda: losses.MarginLoss(2),
        lambda: losses.GeneralizedLiftedStructureLoss(margin=-2.2),
        lambda: losses.CrossBatchMemory("multi_similarity", 24),
        lambda: losses.SphericalEmbeddingConstraint("multi_similarity"),
    ],
)
def test_nothing_left_to_learn_ends_training(make):
    model = learner(make(), model=identity())
    with pytest.warns(UserWarning, match="nothing left to learn") as found:
        history = model.fit(*separate(), epochs=5, **SETTINGS).history
    assert len([each for each in found if each.category is UserWarning]) == 1
    assert model.stop_training
    assert len(history["loss"]) == 1
    # One step with something to learn, and it goes on.
    x, labels = separate()
    x[0] = 0.6 * x[0] + 0.8 * x[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert len(model.fit(x, labels, epochs=2, **SETTINGS).history["loss"]) == 2


def test_the_last_epoch_is_evaluated_when_training_ends_early():
    model = learner("multi_similarity", model=identity())
    x, labels = separate()
    check = dml.callbacks.RetrievalEvaluation((x, labels), ks=(1,), every=3)
    with pytest.warns(UserWarning, match="nothing left to learn"):
        history = model.fit(x[:24], labels[:24], epochs=9, callbacks=[check], **SETTINGS).history
    assert history["val_recall@1"] == [1.0]


class Plain(keras.layers.Layer):
    """An augmentation without the hook."""

    def call(self, embeddings, labels, training=None):
        if not training:
            return embeddings, labels
        return ops.concatenate([embeddings, embeddings]), ops.concatenate([labels, labels])


class Told(Plain):
    """One with it."""

    def on_epoch_end(self, epoch, logs):
        self.seen = (*getattr(self, "seen", ()), (epoch, sorted(logs)))
        logs["told"] = float(epoch)


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.names = []

    def on_epoch_end(self, epoch, logs=None):
        self.names.append(set(logs))


def test_the_hook_is_optional_and_its_logs_are_reported():
    plain = learner("multi_similarity", augmentation=Plain())
    reported = {"loss", "active_pairs", "produced_distance", "produced_share"}
    assert set(plain.fit(*data(), **SETTINGS).history) == reported
    told, watch = learner("multi_similarity", augmentation=Told()), Watch()
    history = told.fit(*data(), epochs=2, callbacks=[watch], **SETTINGS).history
    assert history["told"] == [0.0, 1.0]
    # What the steps counted is for the hooks alone.
    assert watch.names == [reported | {"told"}] * 2
    assert set(told.augmentation.seen[1][1]) > {"loss", unusable_batches.STEPS, *unusable_batches.STEPS_WITH}
    assert isinstance(told.augmentation, dml.models.EpochHook)
    assert not isinstance(plain.augmentation, dml.models.EpochHook)
    assert isinstance(dml.layers.DASAugmentation(3), dml.models.EpochHook)


def test_a_loss_may_end_training():
    @keras.saving.register_keras_serializable(package="tests")
    class Enough(losses.MultiSimilarityLoss):
        def on_epoch_end(self, epoch, logs):
            super().on_epoch_end(epoch, logs)
            if epoch == 1:
                raise losses.NothingLeftToLearn("That will do.")

    model = learner(losses.CrossBatchMemory(Enough(), 24))
    with pytest.warns(UserWarning, match=r"That will do\."):
        assert len(model.fit(*data(), epochs=5, **SETTINGS).history["loss"]) == 2


def images(high, n=24):
    labels = (np.arange(n) % 3).astype("int32")
    return np.random.default_rng(0).uniform(0, high, (n, 8, 8, 1)).astype("float32"), labels


def image_encoder():
    return dml.backbones.build("small_conv", 8, input_shape=(8, 8, 1), options={"widths": (4,)})


def pixel_warnings(model, x, labels, **kwargs):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        model.fit(x, labels, **{**SETTINGS, **kwargs})
    return [str(each.message) for each in found if "[0, 255]" in str(each.message)]


def test_images_between_0_and_1_are_warned_of_once(tmp_path):
    model = learner("multi_similarity", model=image_encoder())
    model.save(tmp_path / "model.keras")
    (text,) = pixel_warnings(model, *images(1.0), epochs=3)
    assert "leave out your own division by 255" in text
    assert pixel_warnings(model, *images(1.0)) == []
    # The layers that tell it are saved.
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert len(pixel_warnings(restored, *images(1.0), validation_data=images(1.0))) == 1


def test_other_images_and_encoders_are_not():
    assert pixel_warnings(learner("multi_similarity", model=image_encoder()), *images(255.0)) == []
    inputs = keras.Input((8, 8, 1))
    own = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(inputs)))
    assert pixel_warnings(learner("multi_similarity", model=own), *images(1.0)) == []
