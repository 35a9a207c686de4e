import keras
import numpy as np
import pytest

from keras_dml import losses

X = np.eye(4, dtype="float32")
LABELS = np.array([0, 0, 1, 1])


@keras.saving.register_keras_serializable(package="tests")
def row_sums(labels, embeddings):
    return keras.ops.sum(embeddings, axis=1)


@pytest.mark.parametrize("name", losses.names())
def test_names(name):
    if name.startswith(("arc", "normalized", "proxy")):
        with pytest.raises(ValueError, match=r"num_classes=\.\.\."):
            losses.get(name)
    elif name in ("cross_batch_memory", "spherical_embedding_constraint"):
        with pytest.raises(ValueError, match=r"loss=\.\.\."):
            losses.get(name)
    else:
        loss = losses.get(name)
        assert isinstance(loss, losses.EmbeddingLoss)
        assert losses.get(loss) is loss


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"'multi_similarity'.*Known: arcface, contrastive.*triplet"):
        losses.get("multisimilarity")
    with pytest.raises(ValueError, match=r"Unknown miner 'semihard'.*semi_hard.*Known"):
        losses.TripletLoss(miner="semihard")


def test_functions_and_keras_losses():
    assert float(losses.get(row_sums)(LABELS, X)) == 1.0
    restored = losses.get(keras.saving.serialize_keras_object(losses.get(row_sums)))
    assert float(restored(LABELS, 2 * X)) == 2.0
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    adapted = losses.get(keras_loss)
    assert float(adapted(LABELS, X)) == pytest.approx(float(keras_loss(LABELS, X)))
    restored = losses.get(keras.saving.serialize_keras_object(adapted))
    assert float(restored(LABELS, X)) == pytest.approx(float(keras_loss(LABELS, X)))
    with pytest.raises(ValueError, match="labels and embeddings only"):
        adapted(LABELS, X, keys=X, key_labels=LABELS)


def test_what_is_no_loss_is_refused():
    with pytest.raises(ValueError, match="Call it first"):
        losses.get(losses.TripletLoss)
    with pytest.raises(ValueError, match="A loss must be a name"):
        losses.get(3)


@pytest.mark.parametrize(
    ("loss", "arguments", "name"),
    [
        (losses.ContrastiveLoss, {"positive_margin": 1.0, "negative_margin": 0.5}, "negative_margin"),
        (losses.TripletLoss, {"margin": -1.0}, "margin"),
        (losses.MarginLoss, {"num_classes": 0}, "num_classes"),
        (losses.MarginLoss, {"margin": -1.0}, "margin"),
        (losses.NPairLoss, {"divisor": 0.0}, "divisor"),
        (losses.MultiSimilarityLoss, {"alpha": 0.0}, "alpha"),
        (losses.SupConLoss, {"temperature": 0.0}, "temperature"),
        (losses.NormalizedSoftmaxLoss, {"num_classes": 3, "temperature": -1.0}, "temperature"),
        (losses.ProxyNCALoss, {"num_classes": 3, "temperature": 0.0}, "temperature"),
        (losses.ProxyAnchorLoss, {"num_classes": 0}, "num_classes"),
        (losses.ProxyAnchorLoss, {"num_classes": 3, "alpha": 0.0}, "alpha"),
        (losses.ArcFaceLoss, {"num_classes": 3, "margin": 28.6}, "margin"),
        (losses.ArcFaceLoss, {"num_classes": 3, "scale": 0.0}, "scale"),
    ],
)
def test_wrong_arguments_are_named(loss, arguments, name):
    with pytest.raises(ValueError, match=rf"`{name}`.*Received: .*\b{name}={arguments[name]}"):
        loss(**arguments)
