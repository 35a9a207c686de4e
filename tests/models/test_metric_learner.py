import subprocess
import sys

import backends
import keras
import numpy as np
import pytest
from keras import ops

import keras_dml as dml
from keras_dml import losses

if backends.TENSORFLOW:
    import tensorflow as tf

DIM, CLASSES = 6, 4


def encoder(batch_norm=False, seed=3):
    """A small dense encoder, so that a step can be recomputed by hand."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5,))
    x = keras.layers.Dense(8, name="hidden")(inputs)
    if batch_norm:
        x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.Dense(DIM, name="embedding", dtype="float32")(x)
    return keras.Model(inputs, keras.layers.UnitNormalization(dtype="float32")(x))


def batch(seed=0, n=12):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, 5)).astype("float32"), (np.arange(n) % CLASSES).astype("int32")


def spread(labels, embeddings):
    """A smooth loss with an easy gradient: mean square distance of same-class rows minus a share of all others."""
    difference = embeddings[:, None] - embeddings[None]
    square = ops.sum(difference * difference, -1)
    same = ops.cast(ops.equal(labels[:, None], labels[None]), square.dtype)
    return ops.mean(square * (same - 0.25))


@keras.saving.register_keras_serializable(package="tests")
class Doubling(keras.layers.Layer):
    """An augmentation that hands on every embedding and its negative."""

    def call(self, embeddings, labels, training=None):
        if not training:
            return embeddings, labels
        return ops.concatenate([embeddings, -embeddings]), ops.concatenate([labels, labels])


def weights(model):
    return [w.numpy() for w in model.encoder.trainable_variables]


def manual_gradients(model, x, y, loss=spread):
    value, gradients = backends.value_and_gradients(lambda: loss(y, model.encoder(x, training=True)), [], model.encoder)
    return [np.asarray(gradient) for gradient in gradients], float(value)


@pytest.mark.parametrize("jit", [False, True])
def test_step_is_the_gradient_step(jit):
    model = dml.MetricLearner(encoder())
    model.compile(keras.optimizers.SGD(0.5), loss=spread, jit_compile=jit)
    x, y = batch()
    before = weights(model)
    gradients, value = manual_gradients(model, x, y)
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["loss"] == pytest.approx(value, rel=1e-5)
    for old, gradient, new in zip(before, gradients, weights(model), strict=True):
        np.testing.assert_allclose(new, old - 0.5 * gradient, atol=1e-6)


def test_decay_is_coupled_and_comes_after_clipping():
    model = dml.MetricLearner(encoder(), l2_decay=0.1, clip_norm=0.01)
    model.compile(keras.optimizers.SGD(1.0), loss=spread)
    x, y = batch()
    before = weights(model)
    gradients, _ = manual_gradients(model, x, y)
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    assert norm > 0.01
    model.train_on_batch(x, y)
    for old, gradient, new in zip(before, gradients, weights(model), strict=True):
        np.testing.assert_allclose(new, old - (gradient * 0.01 / norm + 0.1 * old), atol=1e-6)


def test_clipping_leaves_small_gradients_alone():
    model = dml.MetricLearner(encoder(), clip_norm=1e6)
    model.compile(keras.optimizers.SGD(1.0), loss=spread)
    x, y = batch()
    before = weights(model)
    gradients, _ = manual_gradients(model, x, y)
    model.train_on_batch(x, y)
    for old, gradient, new in zip(before, gradients, weights(model), strict=True):
        np.testing.assert_allclose(new, old - gradient, atol=1e-6)


def test_coupled_decay_differs_from_decoupled():
    """With Adam the two decays are different updates: a zero gradient still moves weights by the full rate."""
    model = dml.MetricLearner(encoder(), l2_decay=1.0)
    model.compile(keras.optimizers.Adam(0.1), loss=lambda labels, embeddings: 0.0 * ops.sum(embeddings))
    before = weights(model)
    model.train_on_batch(*batch())
    for old, new in zip(before, weights(model), strict=True):
        moved = old[np.abs(old) > 1e-2] - new[np.abs(old) > 1e-2]
        np.testing.assert_allclose(moved, 0.1 * np.sign(old[np.abs(old) > 1e-2]), rtol=0.05)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norm(frozen):
    model = dml.MetricLearner(encoder(batch_norm=True), frozen_batch_norm=frozen)
    model.compile(keras.optimizers.SGD(0.5), loss=spread)
    norm = model.encoder.get_layer("bn")
    norm.moving_mean.assign(np.full(8, 0.3))
    before = [w.numpy() for w in (norm.moving_mean, norm.moving_variance, norm.gamma, norm.beta)]
    model.train_on_batch(*batch())
    after = [w.numpy() for w in (norm.moving_mean, norm.moving_variance, norm.gamma, norm.beta)]
    assert np.array_equal(before[0], after[0]) == frozen
    assert np.array_equal(before[1], after[1]) == frozen
    assert not np.array_equal(before[2], after[2])
    assert not np.array_equal(before[3], after[3])


@pytest.mark.parametrize("auxiliary", [None, 0.7])
def test_loss_on_the_union(auxiliary):
    model = dml.MetricLearner(encoder(), augmentation=Doubling(), auxiliary_weight=auxiliary)
    model.compile(keras.optimizers.SGD(0.5), loss=spread)
    x, y = batch()

    def expected(labels, embeddings):
        union = spread(np.concatenate([labels, labels]), ops.concatenate([embeddings, -embeddings]))
        return union if auxiliary is None else spread(labels, embeddings) + auxiliary * union

    before = weights(model)
    gradients, value = manual_gradients(model, x, y, expected)
    logs = model.train_on_batch(x, y, return_dict=True)
    # The union's is 0 but for rounding, which differs where a compiled step is compared with an eager one.
    assert logs["loss"] == pytest.approx(value, rel=1e-5, abs=None if backends.TENSORFLOW else 1e-7)
    # Every produced row is the negative of a unit vector, hence two away from it.
    assert logs["produced_distance"] == pytest.approx(2.0, rel=1e-5)
    for old, gradient, new in zip(before, gradients, weights(model), strict=True):
        np.testing.assert_allclose(new, old - 0.5 * gradient, atol=1e-6)


def test_evaluate_and_predict_use_real_embeddings_only():
    model = dml.MetricLearner(encoder(), augmentation=Doubling())
    model.compile(keras.optimizers.SGD(0.5), loss=spread)
    x, y = batch()
    embeddings = model.predict(x, verbose=0)
    np.testing.assert_allclose(embeddings, np.asarray(model.encoder(x)), atol=1e-6)
    assert model.evaluate(x, y, batch_size=12, verbose=0) == pytest.approx(float(spread(y, embeddings)), rel=1e-5)


def das_model(policy="float32", **kwargs):
    keras.config.set_dtype_policy(policy)
    model = dml.MetricLearner(encoder(), augmentation=dml.layers.DASAugmentation(CLASSES, top_k=2, seed=7))
    model.compile(keras.optimizers.Adam(1e-2), loss=losses.MarginLoss(CLASSES), **kwargs)
    return model


class Batches(keras.utils.PyDataset):
    """`tf.data` where there is none."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, step):
        return self.x[step], self.y[step]


def data(steps):
    # Of known length: where it is not, Keras starts a step too many, which counts in the optimizer.
    xs, ys = zip(*(batch(seed) for seed in range(steps)), strict=True)
    if not backends.TENSORFLOW:
        return Batches(xs, ys)
    return tf.data.Dataset.from_tensor_slices((np.concatenate(xs), np.concatenate(ys))).batch(12, drop_remainder=True)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("jit", [False, True])
def test_fit_with_das_and_a_loss_with_weights(policy, jit):
    model = das_model(policy, jit_compile=jit)
    beta = model.embedding_loss.trainable_variables[0].numpy()
    history = model.fit(data(6), epochs=2, verbose=0).history
    assert set(history) == {"loss", "produced_distance", "produced_share", "active_pairs", "bank_fill"}
    # A positive and a negative for each of 12 real and 36 produced anchors.
    assert history["active_pairs"] == [96.0, 96.0]
    assert all(np.isfinite(values).all() for values in history.values())
    assert 0 < history["produced_share"][0] < 1
    assert not np.array_equal(beta, model.embedding_loss.trainable_variables[0].numpy())
    assert model.augmentation.frequency_recorder_matrix.numpy().sum() == 2 * 6 * 12 * 2


def test_saved_model_goes_on_as_if_it_had_not_been_saved(tmp_path):
    model = das_model()
    model.fit(data(4), verbose=0)
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        restored.augmentation.transformation_bank.numpy(), model.augmentation.transformation_bank.numpy()
    )
    for learner in (model, restored):
        learner.fit(data(3), verbose=0)
    for ours, theirs in zip(model.variables, restored.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    for ours, theirs in zip(model.loss_optimizer.variables, restored.loss_optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_weights_file_carries_optimisers_and_state(tmp_path):
    model = das_model()
    model.fit(data(4), verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    other = das_model()
    other.load_weights(tmp_path / "model.weights.h5")
    for learner in (model, other):
        learner.fit(data(3), verbose=0)
    for ours, theirs in zip(model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_steps_per_execution_changes_nothing():
    single, several = das_model(), das_model(steps_per_execution=3)
    for learner in (single, several):
        learner.fit(data(6), verbose=0)
    for ours, theirs in zip(single.variables, several.variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_loss_has_its_own_rate():
    model = dml.MetricLearner(encoder())
    model.compile(keras.optimizers.SGD(0.0), loss=losses.MarginLoss(CLASSES), loss_optimizer=keras.optimizers.SGD(0.1))
    encoder_before, beta_before = weights(model), model.embedding_loss.trainable_variables[0].numpy()
    model.train_on_batch(*batch())
    assert all(np.array_equal(old, new) for old, new in zip(encoder_before, weights(model), strict=True))
    assert not np.array_equal(beta_before, model.embedding_loss.trainable_variables[0].numpy())


def test_suggested_rate_without_decay_is_the_default():
    model = dml.MetricLearner(encoder())
    model.compile(keras.optimizers.AdamW(1e-2, weight_decay=0.1), loss=losses.MarginLoss(CLASSES))
    assert float(model.loss_optimizer.learning_rate.numpy()) == pytest.approx(5e-4)
    assert not model.loss_optimizer.weight_decay


def test_float16_overflow_skips_the_loss_weights_too():
    keras.config.set_dtype_policy("mixed_float16")
    model = dml.MetricLearner(encoder())
    model.compile(keras.optimizers.SGD(0.1), loss=losses.MarginLoss(CLASSES))
    x, y = batch()
    before = [w.numpy() for w in model.trainable_variables]
    model.train_on_batch(x * np.float32(np.inf), y)
    assert all(np.array_equal(old, new.numpy()) for old, new in zip(before, model.trainable_variables, strict=True))


def test_compiling_again_forgets_the_old_loss():
    model = dml.MetricLearner(encoder())
    plain = len(model.trainable_variables)
    model.compile("sgd", loss=losses.MarginLoss(CLASSES))
    assert len(model.trainable_variables) == plain + 1
    model.fit(*batch(), batch_size=12, verbose=0)
    model.compile("sgd", loss=spread)
    assert len(model.trainable_variables) == plain
    model.fit(*batch(), batch_size=12, verbose=0)


def test_encoder_without_an_input_shape_is_built_by_fit():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(DIM)

        def call(self, inputs):
            return self.dense(inputs)

    model = dml.MetricLearner(Subclassed(), augmentation=dml.layers.DASAugmentation(CLASSES, top_k=2))
    model.compile("sgd", loss=losses.MarginLoss(CLASSES))
    history = model.fit(*batch(), batch_size=12, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][0] != history["loss"][1]


def test_wrong_labels_are_refused_at_the_end_of_the_epoch():
    model = das_model()
    x, y = batch()
    y[5] = CLASSES
    with pytest.raises(ValueError, match=r"received 1 rows with a label outside \[0, num_classes=4\)"):
        model.fit(x, y, batch_size=12, verbose=0)
    assert model.augmentation.frequency_recorder_matrix.numpy().sum() == 2 * 11


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "steps",
    [
        0,
        pytest.param(
            2, marks=pytest.mark.skipif(backends.TENSORFLOW, reason="JAX only: tf.data takes labels of one rank")
        ),
    ],
)
def test_a_failed_step_leaves_the_model_as_it_was(jit, steps):
    """On JAX, Keras holds the values outside of the model for as long as it trains."""
    model = dml.MetricLearner(encoder())
    model.compile("sgd", loss=losses.MarginLoss(CLASSES), jit_compile=jit)

    class Batches(keras.utils.PyDataset):
        """One that cannot be trained on, after `steps` others."""

        def __len__(self):
            return steps + 1

        def __getitem__(self, step):
            x, y = batch(step)
            return x, keras.utils.to_categorical(y, CLASSES) if step == steps else y

    before = weights(model)
    with pytest.raises(ValueError, match="not one-hot rows"):
        model.fit(Batches(), verbose=0)
    same = [np.array_equal(old, new) for old, new in zip(before, weights(model), strict=True)]
    assert not any(same) if steps else all(same)
    assert int(model.optimizer.iterations) == steps
    with pytest.raises(ValueError, match="not one-hot rows"):
        model.evaluate(*Batches()[steps], batch_size=12, verbose=0)
    with pytest.raises(ValueError, match=r"incompatible|expected shape"):
        model.predict(np.zeros((4, 7), "float32"), verbose=0)
    assert int(model.optimizer.iterations) == steps
    assert np.isfinite(model.fit(*batch(), batch_size=12, verbose=0).history["loss"]).all()


def test_one_image_per_class_is_refused_by_a_tuple_loss():
    model = dml.MetricLearner(encoder())
    model.compile("sgd", loss=losses.TripletLoss())
    x, _ = batch()
    with pytest.raises(ValueError, match="two images of a class"):
        model.fit(x, np.arange(12), batch_size=12, verbose=0)


WIDE = np.array([7, 7 + 2**32] * 6)
"""Labels that agree in their low 32 bits, and would be one number in float32 too."""


class Pairs(keras.utils.PyDataset):
    """One batch, as given."""

    def __init__(self, *batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, step):
        return self.batch


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("loss", ["multi_similarity", losses.CrossBatchMemory("multi_similarity", memory_size=24)])
def test_large_labels_are_told_apart_or_refused(eager, loss):
    def model():
        learner = dml.MetricLearner(encoder())
        learner.compile("sgd", loss=losses.get(keras.saving.serialize_keras_object(losses.get(loss))))
        learner.run_eagerly = eager
        return learner

    x, _ = batch()
    calls = [
        lambda learner, y: learner.fit(x, y, batch_size=12, verbose=0).history["loss"][0],
        lambda learner, y: learner.fit(Pairs(x, y), verbose=0).history["loss"][0],
        lambda learner, y: learner.evaluate(Pairs(x, y), verbose=0),
        lambda learner, y: learner.train_on_batch(x, y, return_dict=True)["loss"],
        lambda learner, y: learner.test_on_batch(x, y, return_dict=True)["loss"],
    ]
    for call in calls:
        if backends.TENSORFLOW:
            # By class numbers in the order of the labels.
            assert float(call(model(), WIDE)) == float(call(model(), WIDE // 2**32))
        else:
            with pytest.raises(ValueError, match=r"`labels` must fit into 32 bits.*4294967303 in row 1 \(6 such"):
                call(model(), WIDE)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool"])
def test_labels_that_are_no_integers_are_refused(dtype):
    model = dml.MetricLearner(encoder())
    model.compile("sgd", loss="multi_similarity")
    x, y = batch()
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"`labels` must be integers. Received: dtype=\w+. Cast the class numbers"):
            call(x, (y + 0.5).astype(dtype), batch_size=12, verbose=0)


def ending_in(*layers):
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(DIM), *layers])


@pytest.mark.parametrize(
    ("layers", "unit"),
    [
        ((), False),
        ((keras.layers.Dropout(0.1),), False),
        ((keras.layers.BatchNormalization(),), False),
        ((keras.layers.UnitNormalization(),), True),
        ((keras.Sequential([keras.layers.UnitNormalization(), keras.layers.Identity()]),), True),
        ((keras.layers.Lambda(lambda x: ops.normalize(x)),), None),
        ((keras.layers.Dense(DIM, activation=ops.normalize),), None),
    ],
)
def test_das_normalizes_where_the_encoder_does(layers, unit):
    for normalize in (True, False):
        augmentation = dml.layers.DASAugmentation(CLASSES, top_k=2, normalize=normalize)
        if unit in (None, normalize):
            dml.MetricLearner(ending_in(*layers), augmentation=augmentation)
            continue
        has = "have unit length.*would not" if unit else "do not have unit length.*would"
        remedy = "leave out keras" if unit else "end the encoder with keras"
        with pytest.raises(ValueError, match=rf"{has}.*normalize={normalize}\).*normalize={unit}\), or {remedy}"):
            dml.MetricLearner(ending_in(*layers), augmentation=augmentation)


@pytest.mark.parametrize("structure", [list, tuple, lambda pair: dict(zip("ab", pair, strict=True))])
def test_an_encoder_with_several_outputs_is_refused(structure):
    inputs = keras.Input((5,))
    outputs = structure([keras.layers.Dense(DIM)(inputs), keras.layers.Dense(DIM)(inputs)])
    message = "one tensor of embeddings.*Received: several outputs.*keras.Model"
    with pytest.raises(ValueError, match=message):
        dml.MetricLearner(keras.Model(inputs, outputs))

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(DIM)

        def call(self, inputs):
            return structure([self.dense(inputs), self.dense(inputs)])

    model = dml.MetricLearner(Subclassed())
    model.compile("sgd", loss=spread)
    with pytest.raises((ValueError, RuntimeError), match=message):
        model.fit(*batch(), batch_size=12, verbose=0)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        lambda: losses.ProxyAnchorLoss(CLASSES),
        lambda: losses.MarginLoss(CLASSES),
        lambda: losses.CrossBatchMemory(losses.MarginLoss(CLASSES), memory_size=24),
    ],
)
def test_a_loss_of_classes_has_no_value_on_others(loss, eager):
    model = dml.MetricLearner(encoder())
    model.compile("sgd", loss=loss(), run_eagerly=eager, metrics=[lambda y, x: ops.mean(x)])
    x, y = batch()
    mixed = np.where(np.arange(12) < 6, y, y + CLASSES)
    for labels in (y + CLASSES, mixed, y - CLASSES):
        history = model.fit(x, y, batch_size=12, verbose=0, validation_data=(x, labels)).history
        assert np.isfinite(history["loss"]).all()
        assert "val_loss" not in history
        assert any(name.startswith("val_") for name in history)
        found = model.evaluate(x, labels, batch_size=6, verbose=0, return_dict=True)
        assert "loss" not in found
        assert not np.isnan(list(found.values())).any()
        for call in (model.test_on_batch, lambda *data: model.evaluate(*data, batch_size=6, verbose=0)):
            with pytest.raises(ValueError, match=r"has weights for 4 classes.*RetrievalEvaluation"):
                call(x, labels)
    # And the next evaluation has one again.
    assert np.isfinite(model.fit(x, y, batch_size=12, verbose=0, validation_data=(x, y)).history["val_loss"]).all()


def test_too_few_proxies_are_refused():
    model = dml.MetricLearner(encoder())
    model.compile("sgd", loss=losses.ProxyAnchorLoss(num_classes=CLASSES - 1))
    before = weights(model)
    with pytest.raises(ValueError, match=r"num_classes=3"):
        model.fit(*batch(), batch_size=12, verbose=0)
    assert all(np.array_equal(old, new) for old, new in zip(before, weights(model), strict=True))


def test_pddm_statistics_are_logged_and_its_weights_saved(tmp_path):
    model = dml.MetricLearner(encoder(), pair_scorer=dml.layers.PDDMUnit())
    model.compile(keras.optimizers.SGD(0.1), loss="double_header_hinge")
    before = [w.numpy() for w in model.pair_scorer.trainable_variables]
    history = model.fit(*batch(), batch_size=12, verbose=0).history
    assert {"score_gap", "active_hinges", "embedding_spread"} <= set(history)
    assert any(
        not np.array_equal(old, new.numpy())
        for old, new in zip(before, model.pair_scorer.trainable_variables, strict=True)
    )
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(model.pair_scorer.variables, restored.pair_scorer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_a_loss_that_needs_a_pair_scorer_says_so():
    with pytest.raises(ValueError, match="pair_scorer=keras_dml"):
        dml.MetricLearner(encoder()).compile("sgd", loss="double_header_hinge")


def test_errors_name_the_value():
    x, y = batch()
    model = dml.MetricLearner(encoder())
    with pytest.raises(ValueError, match="`loss` is missing"):
        model.compile("sgd")
    with pytest.raises(ValueError, match=r"Unknown loss 'margn'.*'margin'"):
        model.compile("sgd", loss="margn")
    model.compile("sgd", loss=spread)
    with pytest.raises(ValueError, match="no sample weights"):
        model.fit(x, y, sample_weight=np.ones(len(y)), verbose=0)
    with pytest.raises(ValueError, match=r"not one-hot rows.*\(12, 4\)|not one-hot rows.*\(None, 4\)"):
        model.fit(x, keras.utils.to_categorical(y, CLASSES), batch_size=12, verbose=0)
    with pytest.raises(ValueError, match="needs labels"):
        model.fit(x, verbose=0)
    with pytest.raises(ValueError, match="l2_decay=-1"):
        dml.MetricLearner(encoder(), l2_decay=-1)
    with pytest.raises(ValueError, match="clip_norm=0"):
        dml.MetricLearner(encoder(), clip_norm=0)
    with pytest.raises(ValueError, match=r"auxiliary_weight=1\.0"):
        dml.MetricLearner(encoder(), auxiliary_weight=1.0)
    with pytest.raises(ValueError, match=r"keras\.Model"):
        dml.MetricLearner(lambda images: images)
    inputs = keras.Input((2, 5))
    sequences = keras.Model(inputs, keras.layers.Dense(5)(inputs))
    with pytest.raises(ValueError, match=r"\(None, 2, 5\)"):
        dml.MetricLearner(sequences)


class Halved(dml.MetricLearner):
    """What a subclass overrides on any backend."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 0.5 * super().compute_loss(x, y, y_pred, sample_weight, training)


class TakesItsOwnStep(dml.MetricLearner):
    """What one may override on TensorFlow besides."""

    def train_step(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss = 0.5 * self.compute_loss(x, y, self(x, training=True), training=True)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return self._logs(loss, x, y, self(x))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "subclass",
    [Halved, pytest.param(TakesItsOwnStep, marks=backends.tensorflow_only("a `train_step` with a gradient tape"))],
)
def test_a_subclass_trains_with_what_it_overrides(subclass, jit):
    model = subclass(encoder())
    model.compile(keras.optimizers.SGD(0.5), loss=spread, jit_compile=jit)
    x, y = batch()
    before = weights(model)
    gradients, value = manual_gradients(model, x, y)
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["loss"] == pytest.approx(0.5 * value, rel=1e-5)
    for old, gradient, new in zip(before, gradients, weights(model), strict=True):
        np.testing.assert_allclose(new, old - 0.25 * gradient, atol=1e-6)
    if subclass is Halved:
        found = model.evaluate(x, y, batch_size=12, verbose=0)
        assert found == pytest.approx(0.5 * float(spread(y, np.asarray(model.encoder(x)))), rel=1e-5)


class Activity(keras.layers.Layer):
    """Adds a loss of its own and hands its input on."""

    def call(self, inputs):
        self.add_loss(0.3 * ops.mean(ops.square(inputs)))
        return inputs


@pytest.mark.parametrize("jit", [False, True])
def test_losses_that_the_encoder_adds_are_trained_on(jit):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5,))
    x = Activity()(keras.layers.Dense(DIM, kernel_regularizer=keras.regularizers.L2(0.5), name="dense")(inputs))
    model = dml.MetricLearner(keras.Model(inputs, keras.layers.UnitNormalization()(x)))
    model.compile(keras.optimizers.SGD(0.1), loss=spread, jit_compile=jit)
    x, y = batch()
    dense = model.encoder.get_layer("dense")
    before = weights(model)

    def loss_of(labels, embeddings):
        added = 0.5 * ops.sum(ops.square(dense.kernel)) + 0.3 * ops.mean(ops.square(ops.matmul(x, dense.kernel)))
        return spread(labels, embeddings) + added

    gradients, value = manual_gradients(model, x, y, loss_of)
    assert np.ravel(model.evaluate(x, y, batch_size=12, verbose=0))[0] == pytest.approx(value, rel=1e-5)
    assert model.fit(x, y, batch_size=12, shuffle=False, verbose=0).history["loss"][0] == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(weights(model)[0], before[0] - 0.1 * gradients[0], atol=1e-6)


def with_margins(optimizer, **kwargs):
    model = dml.MetricLearner(encoder())
    model.compile(optimizer, loss=losses.MarginLoss(CLASSES, loss_learning_rate=0.2), **kwargs)
    return model


def rates(model):
    return [float(np.asarray(optimizer.learning_rate)) for optimizer in (model.optimizer, model.loss_optimizer)]


def test_callbacks_that_set_the_rate_move_that_of_the_loss_too():
    x, y = batch()
    model = with_margins(keras.optimizers.SGD(0.1))
    seen = []
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(rates(model))),
    ]
    model.fit(x, y, batch_size=12, epochs=2, verbose=0, callbacks=callbacks)
    np.testing.assert_allclose(seen, [[0.05, 0.1], [0.025, 0.05]], rtol=1e-6)

    model = with_margins(keras.optimizers.SGD(0.1))
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.1, patience=1, min_delta=1e9)
    model.fit(x, y, batch_size=12, epochs=2, verbose=0, callbacks=[plateau])
    np.testing.assert_allclose(rates(model), [0.01, 0.02], rtol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("jit", [False, True])
def test_the_average_of_weights_covers_those_of_the_loss(jit, policy):
    keras.config.set_dtype_policy(policy)
    model = with_margins(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), jit_compile=jit)
    x, y = batch()
    steps = []
    for _ in range(3):
        model.train_on_batch(x, y)
        steps.append([variable.numpy() for variable in model.trainable_variables])
    averages = steps[0]
    for values in steps[1:]:
        averages = [0.5 * average + 0.5 * value for average, value in zip(averages, values, strict=True)]
    # A step at rate 0 leaves the weights as they are, and `fit` then puts the average in their place.
    model.optimizer.learning_rate = 0.0
    averages = [0.5 * average + 0.5 * value for average, value in zip(averages, steps[-1], strict=True)]
    model.fit(x, y, batch_size=12, verbose=0)
    assert not np.allclose(steps[-1][-1], averages[-1], atol=1e-4)
    for variable, average in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_allclose(variable.numpy(), average, atol=1e-6)


def test_validation_reports_no_statistics_of_training():
    x, y = batch()
    model = das_model()
    history = model.fit(x, y, batch_size=12, epochs=2, verbose=0, validation_data=(x, y)).history
    assert {name for name in history if name.startswith("val_")} == {"val_loss"}
    assert {"produced_distance", "produced_share", "active_pairs", "bank_fill"} <= set(history)
    scored = dml.MetricLearner(encoder(), pair_scorer=dml.layers.PDDMUnit())
    scored.compile("sgd", loss="double_header_hinge")
    history = scored.fit(x, y, batch_size=12, verbose=0, validation_data=(x, y)).history
    assert {name for name in history if name.startswith("val_")} == {"val_loss"}


@backends.tensorflow_only("Keras exports to a SavedModel")
@pytest.mark.parametrize("kind", ["functional", "subclassed"])
@pytest.mark.parametrize("trained", [False, True])
def test_export_holds_the_forward_pass_of_the_encoder(kind, trained, tmp_path):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(DIM)

        def call(self, inputs):
            return self.dense(inputs)

    model = dml.MetricLearner(
        encoder(batch_norm=True) if kind == "functional" else Subclassed(),
        augmentation=dml.layers.DASAugmentation(CLASSES, top_k=2),
        pair_scorer=dml.layers.PDDMUnit(),
    )
    model.compile("adam", loss="double_header_hinge")
    x, y = batch()
    if trained:
        model.fit(x, y, batch_size=12, verbose=0)
    else:
        model(x)
    model.export(tmp_path / "exported", verbose=False)
    np.save(tmp_path / "images.npy", x[:5])
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        "loaded = tf.saved_model.load(sys.argv[1] + '/exported')\n"
        "embeddings = loaded.serve(np.load(sys.argv[1] + '/images.npy'))\n"
        "np.save(sys.argv[1] + '/embeddings.npy', embeddings.numpy())"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), model.predict(x[:5], verbose=0), atol=1e-6)
