"""The code in README.md and docs/ runs as it stands there."""

import importlib.util
import pathlib
import re

import keras
import numpy as np
import pytest

import keras_dml as dml
import zoo.pretrained

ROOT = pathlib.Path(__file__).parent.parent


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


def test_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {}
    found = blocks("README.md")
    assert len(found) == 2
    for block in found:
        exec(compile(block, "README.md", "exec"), scope)
    assert {"val_recall@1", "val_map@r", "produced_distance", "bank_fill"} <= set(scope["model"].history.history)
    assert len(scope["service"]) == len(scope["glyphs"].test)


def test_tables_are_those_of_the_records():
    """`python docs/tables.py` writes them anew."""
    path = ROOT / "docs" / "tables.py"
    spec = importlib.util.spec_from_file_location("tables", path)
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    shown = 0
    for name in ["README.md", *(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))]:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert tables.renewed(text) == text, f"{name}: run python docs/tables.py"
        shown += len(tables.BLOCK.findall(text))
    assert shown >= 2


def model(normalize, pair_scorer=None):
    encoder = dml.backbones.build("small_conv", 8, input_shape=(8, 8, 1), normalize=normalize)
    augmentation = dml.layers.DASAugmentation(100, normalize=normalize)
    return dml.MetricLearner(encoder, augmentation=augmentation, pair_scorer=pair_scorer)


def test_every_compile_line():
    scope = {"model": model(True), "unnormalized": model(False), "scored": model(True, dml.layers.PDDMUnit())}
    lines = 0
    for block in blocks("docs/losses.md"):
        exec(compile(block, "docs/losses.md", "exec"), scope)
        lines += block.count(".compile(")
    assert lines >= 19
    x, labels = np.eye(4, dtype="float32"), np.array([0, 0, 1, 1])
    assert float(dml.losses.get("mean_positive_distance")(labels, x)) == 2.0
    assert isinstance(scope["model"].embedding_loss, dml.losses.FunctionLoss)


def test_pretrained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {}
    for block in blocks("docs/pretrained.md"):
        exec(compile(block, "docs/pretrained.md", "exec"), scope)
    assert scope["result"].recall[1] == pytest.approx(scope["model"].metrics["recall@1"], abs=2e-3)
    assert len(scope["service"]) == len(scope["glyphs"].test)
    assert np.isfinite(scope["learner"].history.history["loss"]).all()
    table = (ROOT / "docs" / "pretrained.md").read_text(encoding="utf-8")
    for name in zoo.pretrained.names():
        metrics = zoo.load(name).metrics
        numbers = rf"\| `{name}` \|.*\| {metrics['recall@1']:.4f} \| {metrics['map@r']:.4f} \|"
        assert re.search(numbers, table), f"docs/pretrained.md should say of {name}: {numbers}"


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]
)
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert ((ROOT / name).parent / target).exists(), target


def test_public_names():
    assert keras.Model in dml.MetricLearner.__mro__
    for name in ("DASAugmentation", "PDDMUnit"):
        assert hasattr(dml.layers, name)
    for name in ("similarity", "DoubleHeaderHinge"):
        assert hasattr(dml.losses, name)
    assert hasattr(dml.mining, "hard_quadruplets")
    assert hasattr(dml.callbacks, "RetrievalEvaluation")
    assert hasattr(dml.evaluation, "evaluate_retrieval")
    with pytest.raises(AttributeError, match="no attribute 'losess'"):
        _ = dml.losess
