"""Old public names of losses and miners: they work, and say what they are called now."""

import inspect
import pathlib
import warnings

import keras
import numpy as np
import pytest

from keras_dml import losses, mining
from keras_dml.layers import PDDMUnit
from keras_dml.losses import EmbeddingBatch
from keras_dml.utils.deprecation import rename_arguments

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
LABELS = np.array([0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (mining, "Sampler", "Miner"),
        (mining, "DistanceWeightedSampler", "DistanceWeightedMiner"),
        (mining, "RandomSampler", "RandomMiner"),
        (mining, "SemiHardSampler", "SemiHardMiner"),
        (mining, "SoftHardSampler", "SoftHardMiner"),
        (losses, "TupleLoss", "SampledTripletLoss"),
        (losses, "SimilarityLoss", "TFSimilarityLoss"),
    ],
)
def test_classes(module, old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} is now called {module.__name__}.{new}"):
        assert getattr(module, old) is getattr(module, new)
    assert old not in module.__all__


@pytest.mark.parametrize("make", [losses.TripletLoss, losses.ContrastiveLoss, losses.MarginLoss])
def test_sampler(make):
    with pytest.warns(DeprecationWarning, match=f"`sampler` of {make.__name__} is now called `miner`") as found:
        loss = make(sampler="semi_hard")
    # At the line above, whatever the number of constructors in between.
    assert pathlib.Path(found[0].filename).name == "test_renamed_names.py"
    assert isinstance(loss.miner, mining.SemiHardMiner)
    with pytest.warns(DeprecationWarning, match="`miner`"):
        assert loss.sampler is loss.miner
    with pytest.warns(DeprecationWarning, match="`miner`"):
        assert losses.NPairLoss().sampler


@pytest.mark.parametrize("make", [losses.TripletLoss, losses.MarginLoss, losses.DoubleHeaderHinge])
def test_parameter_learning_rate(make):
    with pytest.warns(DeprecationWarning, match="`loss_learning_rate`"):
        loss = make(parameter_learning_rate=0.25)
    assert loss.loss_learning_rate == 0.25
    with pytest.warns(DeprecationWarning, match="`loss_learning_rate`"):
        assert loss.parameter_learning_rate == 0.25
    with pytest.warns(DeprecationWarning, match="`loss_learning_rate`"):
        wrapped = losses.SphericalEmbeddingConstraint("triplet", parameter_learning_rate=0.5)
    assert wrapped.loss_learning_rate == 0.5


def test_call_keywords():
    unit, loss = PDDMUnit(), losses.DoubleHeaderHinge()
    expected = loss.compute(EmbeddingBatch.create(LABELS, X, pair_scorer=unit))
    with pytest.warns(DeprecationWarning, match="`pair_scorer`"):
        assert float(loss(LABELS, X, similarity=unit)) == float(expected.loss)
    with pytest.warns(DeprecationWarning, match=r"loss\.compute"):
        value, usage = loss(LABELS.tolist(), X.tolist(), pair_scorer=unit, return_usage=True)
    assert float(value) == float(expected.loss)
    np.testing.assert_array_equal(usage, expected.key_counts)
    with pytest.warns(DeprecationWarning, match=r"loss\.compute"):
        value, usage, statistics = loss(LABELS, X, similarity=unit, return_usage=True, return_statistics=True)
    assert {name: float(found) for name, found in statistics.items()} == {
        name: float(found) for name, found in expected.statistics.items()
    }
    with pytest.warns(DeprecationWarning, match=r"loss\.compute"):
        assert float(loss(LABELS, X, pair_scorer=unit, return_usage=False)) == float(expected.loss)
    with pytest.raises(TypeError, match="`pair_scorer` twice"):
        loss(LABELS, X, similarity=unit, pair_scorer=unit)
    with pytest.warns(DeprecationWarning, match="`needs_pair_scorer`"):
        assert loss.needs_similarity


def test_attributes_of_a_batch():
    batch = EmbeddingBatch.create(LABELS, X, pair_scorer=len)
    with pytest.warns(DeprecationWarning, match="`keys_are_queries`"):
        assert batch.own_keys is True
    with pytest.warns(DeprecationWarning, match="`pair_scorer`"):
        assert batch.similarity is len


def test_a_loss_written_for_the_old_interface():
    class Old(losses.EmbeddingLoss):
        def compute_loss(self, batch):
            return keras.ops.mean(batch.embeddings), None

    output = Old().compute(EmbeddingBatch.create(LABELS, X))
    assert float(output.loss) == pytest.approx(X.mean(), rel=1e-5)
    assert output.key_counts is None
    assert output.statistics == {}


def test_old_configurations():
    config = keras.saving.serialize_keras_object(losses.MarginLoss(3, miner=mining.SemiHardMiner(margin=0.4)))
    inner = config["config"]
    inner["parameter_learning_rate"] = inner.pop("loss_learning_rate")
    inner["sampler"] = inner.pop("miner")
    inner["sampler"] |= {
        "class_name": "SemiHardSampler",
        "registered_name": "keras_dml>SemiHardSampler",
        "module": "keras_dml.mining.semi_hard_sampler",
    }
    with warnings.catch_warnings():
        # A saved file is nobody's mistake.
        warnings.simplefilter("error", DeprecationWarning)
        loss = losses.get(config)
    assert loss.loss_learning_rate == 5e-4
    assert isinstance(loss.miner, mining.SemiHardMiner)
    assert loss.miner.margin == 0.4


def test_no_argument_twice():
    with pytest.warns(DeprecationWarning, match="`new`"):
        assert rename_arguments("f", {"old": 1, "other": 2}, {"old": "new"}) == {"new": 1, "other": 2}
    with pytest.raises(TypeError, match="f got `new` twice"):
        rename_arguments("f", {"old": 1, "new": 2}, {"old": "new"})


@pytest.mark.parametrize("module", [losses, mining])
def test_no_function_takes_more_than_eight_parameters(module):
    for name in module.__all__:
        found = getattr(module, name)
        functions = [found] if inspect.isfunction(found) else []
        if inspect.isclass(found):
            functions = [each for key, each in vars(found).items() if inspect.isfunction(each) and key != "__init__"]
            functions += [each.__func__ for each in vars(found).values() if isinstance(each, classmethod)]
        for function in functions:
            named = [one for one in inspect.signature(function).parameters if one not in ("self", "cls")]
            assert len(named) <= 8, function
