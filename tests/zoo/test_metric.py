"""Unnormalized embeddings are evaluated by Euclidean distance, everywhere; old runs stay by cosine."""

import json
import shutil

import numpy as np
import pytest
from backend_checks import needs_tensorflow

from keras_dml.evaluation import RetrievalOptions, at_widths, evaluate_folds, evaluate_retrieval
from zoo import compare, evaluate, recipes, reproduce
from zoo.recipe import metric_of, settings_as_saved
from zoo.record import changed_settings_of_record, changed_settings_of_run
from zoo.report.evaluated import evaluate_run
from zoo.report.experiment import open_experiment
from zoo.report.sections.arms import arms_section
from zoo.runs import open_run

SETTINGS = {
    "arms": {"unit": {}, "raw": {"normalize": False, "loss": "n_pair"}},
    "exported": "raw",
    "das": None,
    "lr_milestones": (),
    "steps_per_epoch": 3,
    "select_epoch": False,
    "ks": (1, 2),
    "widths": (4,),
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    assert reproduce.main(["digits", "--output", str(folder), "--epochs", "1", "--seed", "0", *changes()]) == 0
    return folder


def changes(**more):
    return [word for key, value in {**SETTINGS, **more}.items() for word in ("--set", f"{key}={value}")]


def measured(embeddings, metric):
    result = evaluate_retrieval(
        embeddings.vectors, embeddings.labels, ks=(1, 2), options=RetrievalOptions(metric=metric)
    )
    return {
        "recall@1": result.recall[1],
        "map@r": result.map_at_r,
        "nmi": result.nmi,
        "f1": result.f1,
        **at_widths(embeddings.vectors, embeddings.labels, (None, None), (1, 2), (4,), metric),
    }


@pytest.mark.parametrize(("arm", "metric", "other"), [("raw", "euclidean", "cosine"), ("unit", "cosine", "euclidean")])
def test_a_run_is_evaluated_by_the_distance_of_its_encoder(experiment, arm, metric, other):
    run = open_run(experiment / arm / "seed-0")
    assert run.metric == run.image_encoder().metric == metric
    expected = measured(run.embeddings(), metric)
    assert {name: run.metrics["last"][name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert expected["d4_map@r"] != measured(run.embeddings(), other)["d4_map@r"]
    # After the last epoch, by the callback that chooses epochs; clusters are for the final numbers alone.
    history = {name: run.history[f"val_{name}"][-1] for name in ("recall@1", "map@r", "d4_map@r")}
    assert history == pytest.approx({name: expected[name] for name in history}, abs=1e-6)
    values = json.loads((experiment / "record.json").read_text())["arms"][arm]
    assert values["metric"] == metric
    assert values["last"]["nmi"] == [pytest.approx(expected["nmi"], abs=1e-6)]
    shown = evaluate_run(run, None, 0).result
    assert shown.metric == metric
    assert shown.map_at_r == pytest.approx(expected["map@r"], abs=1e-6)


def test_keras_dml_evaluate_follows_the_run(experiment, tmp_path, capsys):
    def printed(*arguments):
        output = tmp_path / "evaluation.json"
        assert evaluate.main([*map(str, arguments), "--no-clustering", "--output", str(output)]) == 0
        capsys.readouterr()
        return json.loads(output.read_text())["metric"]

    raw = experiment / "raw" / "seed-0"
    assert printed(raw) == "euclidean"
    assert printed(raw, "--metric", "cosine") == "cosine"
    assert printed(experiment / "unit" / "seed-0") == "cosine"
    assert printed(raw / "encoder.keras", "--benchmark", "digits") == "euclidean"
    assert printed(raw / "test_embeddings.npz") == "cosine"


def test_a_comparison_says_that_distances_differ(experiment, tmp_path):
    text = compare.report(compare.read_groups([experiment]))
    assert "Not all arms are ranked alike: unit by cosine distance; raw by euclidean distance." in text
    assert "ranked alike" not in compare.report([*compare.read_groups([experiment / "unit"])] * 2)
    mixed = tmp_path / "raw"
    shutil.copytree(experiment / "raw" / "seed-0", mixed / "seed-0")
    shutil.copytree(experiment / "raw" / "seed-0", mixed / "seed-1")
    make_old(mixed / "seed-1", seed=1)
    with pytest.raises(ValueError, match=r"arm 'raw' that were evaluated by euclidean distance and one by cosine"):
        compare.read_groups([mixed])


def test_the_page_of_the_experiment_says_so_too(experiment):
    section = arms_section(open_experiment(experiment))
    assert section.distances == "Not all arms are ranked alike: unit by cosine distance; raw by euclidean distance."


def make_old(folder, **changed):
    """A run as it was written before there was a metric."""
    config = json.loads((folder / "run.json").read_text())
    del config["recipe"]["metric"]
    (folder / "run.json").write_text(json.dumps({**config, **changed}))
    content = json.loads((folder / "image_encoder.json").read_text())
    del content["metric"]
    (folder / "image_encoder.json").write_text(json.dumps(content))


def test_an_old_run_stays_what_it_was(experiment, tmp_path):
    shutil.copytree(experiment / "raw" / "seed-0", tmp_path / "run")
    make_old(tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert run.metric == run.image_encoder().metric == "cosine"
    assert evaluate_run(run, None, 0).result.metric == "cosine"
    (tmp_path / "run" / "image_encoder.json").unlink()
    assert open_run(tmp_path / "run").image_encoder().metric == "cosine"


def test_old_settings_of_unnormalized_arms_differ_from_todays():
    recipe = recipes.get("cars196_losses")
    saved = recipe.to_dict()
    del saved["metric"]
    now = settings_as_saved(saved)
    assert now["metric"] is None
    cosine = {arm for arm, options in now["arms"].items() if options.get("metric") == "cosine"}
    assert cosine == {f"{loss}{das}" for loss in ("generalized_lifted_structure", "n_pair") for das in ("", "_das")}
    assert changed_settings_of_record({"name": recipe.name, "recipe": saved, "arms": {}}) == ["metric"]
    for arm, changed in (("n_pair", ["metric"]), ("multi_similarity", [])):
        settings = recipe.arm(arm).to_dict()
        del settings["metric"]
        assert metric_of(settings) == "cosine"
        assert changed_settings_of_run({"name": recipe.name, "arm": arm, "recipe": settings}) == changed


def test_the_arms_of_table_2_and_of_the_constraint():
    by_distance = {
        f"{name} {arm}": recipe.arm(arm).chosen_metric
        for name, recipe in recipes.RECIPES.items()
        if name.endswith(("_losses", "_table4_ibn"))
        for arm in recipe.arms
    }
    euclidean = {name for name, metric in by_distance.items() if metric == "euclidean"}
    for benchmark in ("cub200", "cars196", "sop"):
        for loss in ("generalized_lifted_structure", "n_pair"):
            assert {f"{benchmark}_losses {loss}", f"{benchmark}_losses {loss}_das"} <= euclidean
    assert len([name for name in euclidean if "digits" not in name]) == 12
    assert euclidean >= {"digits_losses n_pair", "digits_losses generalized_lifted_structure"}
    assert not [name for name in euclidean if "sec" in name.split("_")]


def test_a_cross_validation_follows_it_too(tmp_path):
    arguments = ["digits", "--output", str(tmp_path), "--epochs", "1", "--seed", "0", "--folds", "2"]
    assert reproduce.main([*arguments, *changes(arms={"raw": SETTINGS["arms"]["raw"]}, widths=())]) == 0
    found = json.loads((tmp_path / "cross_validation.json").read_text())["runs"][0]
    parts = [open_run(tmp_path / "raw" / "seed-0" / f"fold-{number}").embeddings() for number in range(2)]
    expected = evaluate_folds(
        [part.vectors for part in parts], parts[0].labels, ks=(1, 2), options=RetrievalOptions(metric="euclidean")
    )
    assert found["concatenated"]["map@r"] == pytest.approx(expected.concatenated.map_at_r, abs=1e-6)
    assert found["separate"][1]["map@r"] == pytest.approx(expected.separate[1].map_at_r, abs=1e-6)


@needs_tensorflow
def test_an_export_ranks_as_the_evaluation_does(experiment):
    import export

    run = open_run(experiment)
    model = export.load(experiment / "export" / "digits")
    embeddings = run.embeddings()
    # Enough queries for the two distances to differ.
    result = evaluate_retrieval(
        embeddings.vectors, embeddings.labels, ks=(5,), options=RetrievalOptions(metric="euclidean")
    )
    ids = np.array(embeddings.ids)
    found = model.search_embeddings(embeddings.vectors[:50], 6)
    for row in range(50):
        others = [one for one in found.ids[row] if one != ids[row]][:5]
        assert others == ids[result.neighbors[row, :5]].tolist()
