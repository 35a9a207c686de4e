import keras
import numpy as np
import pytest
from backend_checks import TENSORFLOW
from keras import ops

import keras_dml as dml
from keras_dml.callbacks import RetrievalEvaluation
from keras_dml.data import ImagePreprocessing, Split
from keras_dml.evaluation import at_widths, evaluate_retrieval, prefix


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


def expected(learner, x, y, prefix="val_"):
    result = evaluate_retrieval(learner.predict(x.astype("float32"), verbose=0), y)
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
        assert callback.evaluate() == pytest.approx(expected(learner, x, y), abs=1e-6)


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
    with pytest.raises(ValueError, match="every=0"):
        RetrievalEvaluation((x, y), every=0)
    with pytest.raises(ValueError, match="Held-out batches need an end"):
        RetrievalEvaluation(Pairs(x, y, 4, end=False))
    with pytest.raises(ValueError, match="ndarray"):
        RetrievalEvaluation(x)
    with pytest.raises(ValueError, match="preprocessing"):
        RetrievalEvaluation(Split(x, y, ["a", "b", "c"]))


def test_prefixes_are_evaluated_by_cosine_similarity():
    generator = np.random.default_rng(0)
    queries, gallery = generator.normal(size=(20, 6)), generator.normal(size=(30, 6))
    labels, gallery_labels = generator.integers(0, 4, 20), generator.integers(0, 4, 30)
    values = at_widths(queries, labels, (gallery, gallery_labels), (1, 2), (2, 5))
    for width in (2, 5):
        nearest = []
        for query in queries[:, :width]:
            cosines = [query @ row / np.linalg.norm(query) / np.linalg.norm(row) for row in gallery[:, :width]]
            nearest.append(gallery_labels[int(np.argmax(cosines))])
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
