import keras
import numpy as np
import pytest
from backend_checks import TENSORFLOW
from keras import ops

import keras_dml as dml
from keras_dml.callbacks import RetrievalEvaluation
from keras_dml.data import ImagePreprocessing, Split
from keras_dml.evaluation import RetrievalOptions, at_widths, evaluate_retrieval, prefix


def model():
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Dense(5)(keras.layers.Flatten()(inputs))
    learner = dml.MetricLearner(keras.Model(inputs, keras.layers.UnitNormalization()(x)))
    learner.compile("sgd", loss=lambda labels, embeddings: ops.sum(embeddings**2 * 0.1))
    return learner


def images(n=30, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (n, 4, 4, 1), np.uint8), (np.arange(n) % 3).astype("int32")


class Pairs(keras.utils.PyDataset):
    """Batches of two arrays."""

    def __init__(self, images, labels, size, end=True):
        super().__init__()
        self.arrays, self.size, self.end = (images, labels), size, end

    @property
    def num_batches(self):
        return -(-len(self.arrays[0]) // self.size) if self.end else None

    def __getitem__(self, index):
        return tuple(array[index * self.size : (index + 1) * self.size] for array in self.arrays)


def expected(learner, x, y, prefix="val_", metric="cosine"):
    embeddings = learner.predict(x.astype("float32"), verbose=0)
    result = evaluate_retrieval(embeddings, y, options=RetrievalOptions(metric=metric))
    values = {f"{prefix}recall@{k}": result.recall[k] for k in (1, 2, 4, 8)}
    return {**values, f"{prefix}map@r": result.map_at_r}


def test_values_are_those_of_the_evaluator_for_every_kind_of_data():
    learner = model()
    x, y = images()
    split = Split(x, y, ["a", "b", "c"])
    kinds = [
        ((x.astype("float32"), y), {}),
        (Pairs(x.astype("float32"), y[:, None], 7), {}),
        (split, {"preprocessing": ImagePreprocessing(4, channels=1)}),
    ]
    if TENSORFLOW:
        import tensorflow as tf

        kinds.append((tf.data.Dataset.from_tensor_slices((x.astype("float32"), y[:, None])).batch(7), {}))
    for data, extra in kinds:
        callback = RetrievalEvaluation(data, **extra)
        callback.set_model(learner)
        assert callback.evaluate() == pytest.approx(expected(learner, x, y), abs=1e-6)


def test_any_keras_model_is_evaluated():
    inputs = keras.Input((4, 4, 1))
    learner = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(inputs)))
    x, y = images()
    for data, extra in (
        ((x.astype("float32"), y), {}),
        (Pairs(x.astype("float32"), y[:, None], 7), {}),
        (Split(x, y, ["a", "b", "c"]), {"preprocessing": ImagePreprocessing(4, channels=1)}),
    ):
        callback = RetrievalEvaluation(data, **extra)
        callback.set_model(learner)
        assert callback.evaluate() == pytest.approx(expected(learner, x, y, metric="euclidean"), abs=1e-6)


def ending_in(*layers):
    return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(5), *layers])


class Subclassed(keras.Model):
    """Whose layers tell nothing about its output."""

    def __init__(self, length):
        super().__init__()
        self.inner, self.length = ending_in(), length

    def call(self, inputs):
        return self.length * ops.normalize(self.inner(inputs)) if self.length else self.inner(inputs)


@pytest.mark.parametrize(
    ("make", "metric"),
    [
        (lambda: ending_in(), "euclidean"),
        (lambda: ending_in(keras.layers.UnitNormalization()), "cosine"),
        (lambda: Subclassed(1.0), "cosine"),
        (lambda: Subclassed(None), "euclidean"),
    ],
)
@pytest.mark.parametrize("gallery", [False, True])
def test_the_metric_is_chosen_by_the_encoder(make, metric, gallery):
    x, y = images(60, seed=4)
    other, other_labels = images(40, seed=5)
    x, other = (pictures.astype("float32") * scale for pictures, scale in ((x, 1.0), (other, 0.7)))
    keras.utils.set_random_seed(0)
    encoder = make()
    learner = dml.MetricLearner(encoder)
    learner.compile("sgd", loss="multi_similarity")
    learner.predict(x, verbose=0)

    def by(name):
        searched = (learner.predict(other, verbose=0), other_labels) if gallery else (None, None)
        embeddings = learner.predict(x, verbose=0)
        result = evaluate_retrieval(embeddings, y, *searched, ks=(1,), options=RetrievalOptions(metric=name))
        values = {"recall@1": result.recall[1], "map@r": result.map_at_r}
        values |= at_widths(embeddings, y, searched, (1,), (3,), name)
        return {f"val_{key}": float(value) for key, value in values.items()}

    assert by("cosine") != by("euclidean")
    held_out = [(x, y), *([(other, other_labels)] if gallery else [])]
    for given in (None, "cosine", "euclidean"):
        callback = RetrievalEvaluation(*held_out, ks=(1,), widths=(3,), metric=given)
        for trained in (learner, encoder):
            callback.set_model(trained)
            assert callback.evaluate() == pytest.approx(by(given or metric), abs=1e-6)
    history = learner.fit(x, y, batch_size=30, verbose=0, callbacks=[RetrievalEvaluation(*held_out, ks=(1,))]).history
    assert history["val_map@r"][0] == pytest.approx(by(metric)["val_map@r"], abs=1e-6)


def test_a_gallery_of_its_own():
    learner = model()
    query, query_labels = images(9, seed=1)
    gallery, gallery_labels = images(30, seed=2)
    callback = RetrievalEvaluation((query.astype("float32"), query_labels), (gallery.astype("float32"), gallery_labels))
    callback.set_model(learner)
    result = evaluate_retrieval(
        learner.predict(query.astype("float32"), verbose=0),
        query_labels,
        learner.predict(gallery.astype("float32"), verbose=0),
        gallery_labels,
    )
    assert callback.evaluate()["val_recall@1"] == pytest.approx(result.recall[1])


def test_history_and_monitoring_callbacks_get_the_values(tmp_path):
    learner = model()
    x, y = images()
    x = x.astype("float32")
    # Listed before the evaluation on purpose: `fit` puts it first.
    callbacks = [
        keras.callbacks.EarlyStopping(monitor="val_recall@1", mode="max", patience=1),
        keras.callbacks.ModelCheckpoint(
            str(tmp_path / "best.keras"), monitor="val_map@r", mode="max", save_best_only=True
        ),
        RetrievalEvaluation((x, y)),
    ]
    learner.optimizer.learning_rate = 0.0
    history = learner.fit(x, y, batch_size=30, epochs=9, verbose=0, callbacks=callbacks).history
    assert (tmp_path / "best.keras").exists()
    # Nothing is learned at rate 0, so patience runs out in the second epoch.
    assert len(history["val_recall@1"]) == 2
    assert {name: values[0] for name, values in history.items() if name.startswith("val_")} == pytest.approx(
        expected(learner, x, y), abs=1e-6
    )


def test_every_other_epoch_and_the_last():
    learner = model()
    x, y = images()
    x = x.astype("float32")
    seen = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append("val_recall@1" in logs)

    learner.fit(x, y, batch_size=30, epochs=4, verbose=0, callbacks=[Keep(), RetrievalEvaluation((x, y), every=2)])
    assert seen == [True, False, True, True]


def test_errors_name_the_value():
    x, y = images()
    with pytest.raises(ValueError, match=r"metric 'cosin'. Did you mean 'cosine'"):
        RetrievalEvaluation((x, y), metric="cosin")
    with pytest.raises(ValueError, match="every=0"):
        RetrievalEvaluation((x, y), every=0)
    with pytest.raises(ValueError, match="Held-out batches need an end"):
        RetrievalEvaluation(Pairs(x, y, 4, end=False))
    with pytest.raises(ValueError, match="ndarray"):
        RetrievalEvaluation(x)
    with pytest.raises(ValueError, match="preprocessing"):
        RetrievalEvaluation(Split(x, y, ["a", "b", "c"]))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_prefixes_are_evaluated_by_the_metric(metric):
    generator = np.random.default_rng(0)
    queries, gallery = generator.normal(size=(20, 6)), generator.normal(size=(30, 6))
    labels, gallery_labels = generator.integers(0, 4, 20), generator.integers(0, 4, 30)
    values = at_widths(queries, labels, (gallery, gallery_labels), (1, 2), (2, 5), metric)
    for width in (2, 5):
        nearest = []
        for query in queries[:, :width]:
            cosines = [query @ row / np.linalg.norm(query) / np.linalg.norm(row) for row in gallery[:, :width]]
            distances = [np.linalg.norm(query - row) for row in gallery[:, :width]]
            found = np.argmax(cosines) if metric == "cosine" else np.argmin(distances)
            nearest.append(gallery_labels[int(found)])
        assert values[f"d{width}_recall@1"] == pytest.approx(np.mean(np.array(nearest) == labels))
    assert set(values) == {f"d{width}_{name}" for width in (2, 5) for name in ("recall@1", "recall@2", "map@r")}
    with pytest.raises(ValueError, match=r"must lie between 1 and that of the embeddings, 6\. Received: width=7"):
        prefix(queries, 7)


def test_widths_stand_in_the_history():
    encoder = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(4)])
    model = dml.MetricLearner(encoder)
    model.compile("adam", loss="multi_similarity")
    x, labels = np.random.default_rng(0).normal(size=(16, 6)).astype("float32"), np.repeat(np.arange(4), 4)
    callback = RetrievalEvaluation((x, labels), ks=(1,), widths=(2,))
    history = model.fit(x, labels, batch_size=16, epochs=1, verbose=0, callbacks=[callback]).history
    assert {"val_recall@1", "val_map@r", "val_d2_recall@1", "val_d2_map@r"} <= set(history)
