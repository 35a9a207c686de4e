import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from loss_cases import CASES

from keras_dml import losses, mining
from keras_dml.losses.registry import LOSSES, required_arguments
from keras_dml.mining.registry import MINERS
from keras_dml.utils.registry import ClassRegistry

ROOT = pathlib.Path(__file__).parents[2]

X = np.eye(4, dtype="float32")
LABELS = np.array([0, 0, 1, 1])


@keras.saving.register_keras_serializable(package="tests")
def row_sums(labels, embeddings):
    return keras.ops.sum(embeddings, axis=1)


@pytest.mark.parametrize("name", losses.names())
def test_names(name):
    required = required_arguments(losses.loss_class(name))
    if required:
        with pytest.raises(ValueError, match=rf"{required[0]}=\.\.\."):
            losses.get(name)
    else:
        loss = losses.get(name)
        assert isinstance(loss, losses.EmbeddingLoss)
        assert losses.get(loss) is loss


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"'multi_similarity'.*Known: arcface, circle.*triplet"):
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
        (losses.CosFaceLoss, {"num_classes": 3, "margin": -0.1}, "margin"),
        (losses.CosFaceLoss, {"num_classes": 3, "scale": 0.0}, "scale"),
        (losses.SubCenterArcFaceLoss, {"num_classes": 3, "sub_centers": 0}, "sub_centers"),
        (losses.SoftTripleLoss, {"num_classes": 3, "centers_per_class": 0}, "centers_per_class"),
        (losses.SoftTripleLoss, {"num_classes": 3, "gamma": 0.0}, "gamma"),
        (losses.SoftTripleLoss, {"num_classes": 3, "tau": -0.2}, "tau"),
        (losses.CircleLoss, {"margin": 1.5}, "margin"),
        (losses.CircleLoss, {"gamma": 0.0}, "gamma"),
        (losses.SmoothAPLoss, {"temperature": 0.0}, "temperature"),
        (losses.RecallAtKSurrogateLoss, {"ks": []}, "ks"),
        (losses.RecallAtKSurrogateLoss, {"temperature": 0.0}, "temperature"),
        (losses.RecallAtKSurrogateLoss, {"recall_temperatures": [1.0]}, "recall_temperatures"),
    ],
)
def test_wrong_arguments_are_named(loss, arguments, name):
    with pytest.raises(ValueError, match=rf"`{name}`.*Received: .*\b{name}={re.escape(str(arguments[name]))}"):
        loss(**arguments)


@pytest.mark.parametrize("name", losses.names())
def test_every_loss_is_documented_and_tested(name):
    loss = losses.loss_class(name)
    assert re.search(rf"\b{loss.__name__}\b", (ROOT / "docs" / "losses.md").read_text(encoding="utf-8"))
    module = loss.__module__.rpartition(".")[2]
    assert name in CASES or (pathlib.Path(__file__).parent / f"test_{module}.py").exists()
    assert getattr(losses, loss.__name__) is loss


def test_which_names_there_are():
    known = {"arcface", "contrastive", "cross_batch_memory", "double_header_hinge", "generalized_lifted_structure"}
    known |= {"margin", "multi_similarity", "n_pair", "normalized_softmax", "proxy_anchor", "proxy_nca"}
    known |= {"circle", "cosface", "recall_at_k_surrogate", "smooth_ap", "soft_triple", "subcenter_arcface"}
    assert known | {"spherical_embedding_constraint", "sup_con", "triplet"} <= set(losses.names())
    assert {"distance_weighted", "random", "semi_hard", "soft_hard"} <= set(mining.names())


@pytest.fixture
def registries(monkeypatch):
    """The registries, put back afterwards."""
    for registry in (LOSSES, MINERS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.mark.usefixtures("registries")
def test_a_loss_and_a_miner_of_ones_own():
    @mining.register_miner("first_of_all")
    @keras.saving.register_keras_serializable(package="tests")
    class FirstOfAll(mining.RandomMiner):
        pass

    @losses.register_loss("my_triplet")
    @keras.saving.register_keras_serializable(package="tests")
    class MyTriplet(losses.TripletLoss):
        def __init__(self, margin=0.2, miner="first_of_all", **kwargs):
            super().__init__(margin=margin, miner=miner, **kwargs)

    assert "my_triplet" in losses.names()
    loss = losses.get("my_triplet")
    assert isinstance(loss.miner, FirstOfAll)
    assert isinstance(losses.get(keras.saving.serialize_keras_object(loss)).miner, FirstOfAll)
    assert isinstance(losses.CrossBatchMemory("my_triplet", 8).loss, MyTriplet)
    # It is not the package's.
    with pytest.raises(AttributeError, match="MyTriplet"):
        _ = losses.MyTriplet


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("register", [losses.register_loss, mining.register_miner])
def test_a_name_is_given_once(register):
    first = type("First", (), {"__module__": "mine"})
    register("mine")(first)
    again = type("First", (), {"__module__": "mine"})
    assert register("mine")(again) is again  # a notebook cell that ran twice
    with pytest.raises(ValueError, match=r"name 'mine' is taken by mine\.First\. Received: mine\.Second"):
        register("mine")(type("Second", (), {"__module__": "mine"}))


def test_a_registry_is_in_order():
    registry = ClassRegistry("thing")
    for name in ("b", "a"):
        registry.register(name)(type(name, (), {}))
    assert list(registry) == ["a", "b"]
    assert len(registry) == 2
    with pytest.raises(ValueError, match="Unknown thing 'c'"):
        registry["c"]


def test_a_new_file_in_the_package_is_all_a_loss_needs(tmp_path):
    """Discovered and importable; shown on a copy of the package with one file more."""
    shutil.copytree(ROOT / "keras_dml", tmp_path / "keras_dml", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "keras_dml" / "losses" / "length_loss.py").write_text(
        "import keras\n"
        "from keras_dml.losses.embedding_loss import EmbeddingLoss\n"
        "from keras_dml.losses.registry import register_loss\n"
        "@register_loss('length')\n"
        "@keras.saving.register_keras_serializable(package='keras_dml')\n"
        "class LengthLoss(EmbeddingLoss):\n"
        "    def compute_loss(self, batch):\n"
        "        return keras.ops.mean(keras.ops.square(batch.embeddings)), None\n"
    )
    script = (
        "import numpy as np; from keras_dml import losses; assert 'length' in losses.names(); "
        "print(float(losses.LengthLoss()(np.array([0, 0]), np.full((2, 3), 2.0))), type(losses.get('length')).__name__)"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["4.0", "LengthLoss"], result.stderr


@pytest.mark.parametrize("module", ["losses.registry", "losses.triplet_loss", "losses.wrapper_loss", "mining.registry"])
def test_every_module_can_be_imported_first(module):
    script = f"import keras_dml.{module}"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
