"""The seam between the export and its index engines, and the older names and versions it still takes."""

import argparse
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Mapping

import keras
import numpy as np
import pytest
from export_helpers import assert_neighbors, clustered

import export
from export import build, manifest
from export.index import engine as engine_module
from export.index.engine import Engine, EngineSettings, Ladder, engine_named, engine_of_manifest, engines, kinds
from keras_dml import ImageEncoder
from keras_dml.data import ImagePreprocessing, Split
from keras_dml.utils.progress import Progress


def small_gallery(size=30, dim=6):
    return export.Gallery(clustered(size, dim), [f"item {row}" for row in range(size)])


class Stub(Engine):
    """An engine that does nothing."""

    def choose(self, spec, size, dim):
        raise NotImplementedError

    build = search = searcher = choose


def test_the_export_names_a_library_in_its_engines_file_only():
    package = pathlib.Path(export.__file__).parent
    for engine in engines():
        for library in engine.libraries:
            naming = {path.name for path in package.rglob("*.py") if library in path.read_text().lower()}
            assert naming == {pathlib.Path(f"{type(engine).__module__.rpartition('.')[2]}.py").name}


def test_kinds_belong_to_one_engine_each():
    assert len(set(kinds())) == len(kinds())
    assert {"scann_exact", "hashing", "tree", "exact"} <= set(kinds())
    with pytest.raises(ValueError, match=r"Unknown index engine 'sacnn'\. Did you mean 'scann'"):
        engine_named("sacnn")


def test_kinds_and_options_of_the_command_line_come_from_the_engines(monkeypatch):
    class Other(Stub):
        name = "other"
        kinds = ("other_kind",)
        options: Mapping[str, str] = {"probes": "lists searched", "leaves": "also these"}

    monkeypatch.setitem(engine_module._ENGINES._entries, "other", Other)
    parser = argparse.ArgumentParser()
    build.add_index_arguments(parser)
    arguments = parser.parse_args(["--kind", "other_kind", "--probes", "3"])
    assert (arguments.kind, arguments.probes) == ("other_kind", 3)
    assert "leaves of a tree; also these" in " ".join(parser.format_help().split())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], export.IndexSpec()),
        (["--recall", "0.8"], export.IndexSpec(recall=0.8)),
        (["--kind", "exact", "--metric", "euclidean"], export.IndexSpec("exact", "euclidean")),
        (["--kind", "tree", "--leaves", "7"], export.IndexSpec("tree", options={"leaves": 7})),
        (["--reorder", "50", "--int8"], export.IndexSpec(int8=True, options={"reorder": 50})),
    ],
)
def test_command_line_to_spec(options, expected):
    parser = argparse.ArgumentParser()
    build.add_index_arguments(parser)
    assert build.index_spec(parser.parse_args(options)) == expected


def test_what_is_chosen():
    """An index that is left open is calibrated and chosen anew; effort given by hand is not calibrated."""
    for spec, is_open, calibrates in (
        (export.IndexSpec(), True, True),
        (export.IndexSpec(metric="euclidean", recall=0.5), True, True),
        (export.IndexSpec("tree"), False, True),
        (export.IndexSpec(int8=True), False, True),
        (export.IndexSpec(options={"leaves": 9}), False, True),
        (export.IndexSpec(options={"leaves_to_search": 9}), False, False),
        (export.IndexSpec("hashing", calibrate=False), False, False),
    ):
        assert (spec.is_open, spec.calibrates) == (is_open, calibrates), spec
    settings = export.IndexSpec().engine().choose(export.IndexSpec(options={"leaves": 100}), 5000, 16)
    assert (settings.kind, settings.leaves, settings.leaves_to_search) == ("tree", 100, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: export.IndexSpec("exact", int8=True), "keeps float32 vectors"),
        (lambda: export.IndexSpec("exact", options={"leaves": 3}), r"takes the options \(none\). Received: 'leaves'"),
        (lambda: export.IndexSpec("tree", options={"lists": 3}), "takes the options leaves, .*Received: 'lists'"),
        (lambda: export.IndexSpec(options={"lists": 3}), "No index engine takes these options together"),
        (lambda: export.BuildOptions(shortlist=0), "`shortlist` must be positive"),
        (lambda: export.BuildOptions(keep=0), "`keep` must be at least 1"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@dataclasses.dataclass(frozen=True)
class StepSettings(EngineSettings):
    width: int = 0
    depth: int = 0


class Steps(Stub):
    """Takes width first, and depth where that is not enough."""

    def ladders(self, settings, size):
        return (Ladder("width", range(10)), Ladder("depth", range(10), if_short=True), Ladder("width", range(10)))


@pytest.mark.parametrize(
    ("target", "expected", "recall"),
    [(0.3, (3, 0), 0.3), (0.9, (9, 0), 0.9), (1.2, (9, 3), 1.2), (5.0, (9, 9), 1.8)],
)
def test_calibration_climbs_an_engines_ladders(target, expected, recall):
    from export.index.calibration import cheapest_settings

    measured = []

    def measure(settings):
        measured.append(settings)
        return (settings.width + settings.depth) / 10

    found, reached = cheapest_settings(Steps(), StepSettings("steps"), measure, target, 100)
    assert (found.width, found.depth) == expected
    assert reached == pytest.approx(recall)
    assert len(set(measured)) == len(measured)


def test_an_exact_index_needs_stock_tensorflow_only(tmp_path):
    gallery = small_gallery()
    version = export.build_model(tmp_path / "m", gallery, index=export.IndexSpec("exact"))
    content = json.loads((version / "manifest.json").read_text())
    assert content["format"] == 2
    assert content["index"]["engine"] == "exact"
    assert content["index"]["stock_tensorflow"] is True
    assert content["index"]["memory_bytes"] == 30 * 6 * 4
    assert "scann" not in content["libraries"]
    assert content["recall"]["source"] == "exact by construction"
    queries = clustered(3, 6, seed=1)
    assert_neighbors(export.load(version).search_embeddings(queries, 5), queries, gallery.embeddings, 5)
    assert (version / "saved_model.pb").read_bytes().find(b"Scann>") == -1
    # It stays exact when it is updated.
    second = export.update_model(tmp_path / "m", remove=["item 3"])
    assert json.loads((second / "manifest.json").read_text())["index"]["kind"] == "exact"


def test_memory_of_an_index_is_reported(tmp_path):
    gallery = small_gallery(200, 16)
    sizes = {}
    for int8 in (False, True):
        spec = export.IndexSpec("scann_exact", calibrate=False, int8=int8)
        version = export.build_model(tmp_path / f"m{int8}", gallery, index=spec)
        content = json.loads((version / "manifest.json").read_text())
        sizes[int8] = content["index"]["memory_bytes"]
        assert content["libraries"]["scann"]
        assert content["index"]["stock_tensorflow"] is False
    assert sizes[False] >= 200 * 16 * 4
    assert sizes[True] < sizes[False] / 2


def test_a_version_of_an_unknown_engine_says_what_to_load(tmp_path):
    version = export.build_model(tmp_path / "m", small_gallery())
    content = json.loads((version / "manifest.json").read_text())
    content["index"]["engine"] = "future"
    del content[manifest.CHECKSUM]
    (version / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"engine 'future', which this release does not have.*exact=True"):
        export.load(version)
    assert export.load(version, exact=True).search_embeddings(np.ones(6), 2).ids.shape == (1, 2)


@pytest.fixture
def image_encoder(run_folder):
    from keras_dml.layers import PDDMUnit

    keras.utils.set_random_seed(5)
    unit = PDDMUnit()
    unit.build([(None, 24), (None, 24)])
    model = keras.models.load_model(run_folder / "encoder.keras")
    return ImageEncoder(model, ImagePreprocessing(16, channels=1), unit, {"name": "tiny"})


def test_the_image_encoder_that_was_exported_comes_back(image_encoder, digits, tmp_path):
    part = digits.subset(range(40))
    version = export.build_model(tmp_path / "m", part, image_encoder)
    model = export.load(version)
    back = model.image_encoder
    assert back is model.image_encoder
    assert back.preprocessing == image_encoder.preprocessing
    assert dict(back.trained_on) == {"name": "tiny"}
    np.testing.assert_array_equal(back.embed(part), image_encoder.embed(part))
    np.testing.assert_allclose(model.embed([part.image(0)]), back.embed(part)[:1], atol=1e-5)
    # Its pair scorer is kept, though nothing is re-ranked with it.
    vectors = image_encoder.embed(part)[:4]
    np.testing.assert_array_equal(back.pair_scorer.pairwise(vectors), image_encoder.pair_scorer.pairwise(vectors))
    assert model.manifest["reranking"] is None
    second = export.load(export.update_model(tmp_path / "m", remove=[part.ids[0]]))
    assert dict(second.image_encoder.trained_on) == {"name": "tiny"}
    assert second.image_encoder.pair_scorer is not None
    assert export.load(export.build_model(tmp_path / "plain", small_gallery())).image_encoder is None


def test_encoder_and_preprocessing(image_encoder, digits, tmp_path):
    part = digits.subset(range(20))
    embeddings = image_encoder.embed(part)
    version = export.build_model(
        tmp_path / "m", part, image_encoder.encoder, image_encoder.preprocessing, embeddings=embeddings
    )
    np.testing.assert_array_equal(export.load(version).gallery.embeddings, embeddings)
    for arguments, message in (
        ((image_encoder, image_encoder.preprocessing), "its own preprocessing"),
        ((image_encoder.encoder,), "go together"),
        ((None, image_encoder.preprocessing), "go together"),
        ((), "needs an `encoder`"),
    ):
        with pytest.raises(ValueError, match=message):
            export.build_model(tmp_path / "m", part, *arguments)
    with pytest.raises(ValueError, match="have 6 dimensions, the encoder makes 24"):
        export.build_model(tmp_path / "m", small_gallery(), image_encoder)


def as_format_1(version):
    """Turns a version into what the release before wrote."""
    (version / "exact").rename(version / "brute_force")
    (version / "image_encoder.json").unlink(missing_ok=True)
    if (version / "pair_scorer.keras").exists():
        (version / "pair_scorer.keras").rename(version / "similarity.keras")
    content = json.loads((version / "manifest.json").read_text())
    index = content["index"]
    index["needs_scann"] = index.pop("engine") == "scann"
    for name in ("stock_tensorflow", "memory_bytes"):
        del index[name]
    if index["kind"] in ("scann_exact", "exact"):
        index["kind"] = "brute_force"
    del content[manifest.CHECKSUM]
    content |= {"format": 1, "files": manifest.checksums(version)}
    (version / "manifest.json").write_text(json.dumps(content))


@pytest.mark.filterwarnings("error:.*now called:DeprecationWarning")
@pytest.mark.parametrize("kind", ["auto", "tree", "scann_exact"])
def test_versions_of_the_release_before_load_and_update(image_encoder, digits, tmp_path, kind):
    part = digits.subset(range(60))
    options = {"leaves": 4, "leaves_to_search": 3} if kind == "tree" else {}
    version = export.build_model(
        tmp_path / "m",
        part,
        image_encoder,
        index=export.IndexSpec(kind, options=options),
        options=export.BuildOptions(pair_scorer=image_encoder.pair_scorer, shortlist=15),
    )
    queries = image_encoder.embed(part)[:5]
    wanted = export.load(version).search_embeddings(queries, 5)
    as_format_1(version)
    for exact in (False, True):
        model = export.load(version, exact=exact, verify=True)
        found = model.search_embeddings(queries, 5)
        if kind != "tree" or not exact:
            np.testing.assert_array_equal(found.indices, wanted.indices)
        np.testing.assert_array_equal(model.image_encoder.embed(part), image_encoder.embed(part))
        assert model.image_encoder.pair_scorer is not None
    second = export.update_model(tmp_path / "m", [digits.subset(range(60, 70))], [part.ids[7]])
    model = export.load(second, verify=True)
    assert len(model) == 69
    assert model.manifest["format"] == 2
    assert model.manifest["index"]["kind"] == ("tree" if kind == "tree" else "scann_exact")
    assert (model.manifest["index"]["chosen_for_recall"] is None) == (kind != "auto")
    assert model.manifest["reranking"]["shortlist"] == 15
    assert {"exact", "image_encoder.json", "pair_scorer.keras"} < {path.name for path in second.iterdir()}


@pytest.mark.filterwarnings("error:.*now called:DeprecationWarning")
def test_an_empty_version_of_the_release_before(tmp_path):
    version = export.build_model(
        tmp_path / "m",
        export.Gallery(np.zeros((0, 4)), ()),
        index=export.IndexSpec("tree"),
        options=export.BuildOptions(allow_empty=True),
    )
    as_format_1(version)
    assert engine_of_manifest(manifest.read(version)["index"]).name == "exact"
    assert export.load(version).search_embeddings(np.ones(4)).ids.shape == (1, 0)
    second = export.update_model(tmp_path / "m", [small_gallery(5, 4)])
    assert export.load(second).search_embeddings(np.ones(4), 5).ids.shape == (1, 5)


def test_older_kinds():
    with pytest.warns(DeprecationWarning, match="'brute_force' is now called 'scann_exact'"):
        assert export.IndexSpec("brute_force") == export.IndexSpec("scann_exact")
    parser = argparse.ArgumentParser()
    build.add_index_arguments(parser)
    with pytest.warns(DeprecationWarning, match="'brute_force' is now called 'scann_exact'"):
        assert parser.parse_args(["--kind", "brute_force"]).kind == "scann_exact"


def test_older_index_settings():
    with pytest.warns(DeprecationWarning, match=r"export.IndexSettings is now called export.IndexSpec") as caught:
        spec = export.IndexSettings("tree", "euclidean", leaves=8, leaves_to_search=2)
    assert caught[0].filename == __file__
    settings = spec.engine().choose(spec, 100, 4)
    assert not spec.calibrates
    assert (settings.kind, settings.metric, settings.leaves, settings.leaves_to_search) == ("tree", "euclidean", 8, 2)
    # As before, whatever the metric.
    assert (settings.reorder, settings.anisotropic_threshold) == (100, 0.2)
    with (
        pytest.warns(DeprecationWarning, match="IndexSettings"),
        pytest.raises(ValueError, match="needs `leaves` and `leaves_to_search`"),
    ):
        export.IndexSettings("tree")
    with pytest.warns(DeprecationWarning, match="IndexSettings"):
        assert export.IndexSettings() == export.IndexSettings("scann_exact")


def test_older_arguments_of_build_model(tmp_path):
    gallery, queries = small_gallery(100), clustered(20, 6, seed=2)
    told, pictures = [], []
    with pytest.warns(DeprecationWarning, match="of build_model is now called") as caught:
        version = export.build_model(
            tmp_path / "m",
            gallery,
            settings=export.IndexSpec("hashing", "euclidean"),
            metric="cosine",
            recall=0.8,
            queries=queries,
            calibrate=True,
            default_k=3,
            source={"from": "here"},
            batch_size=2,
            with_thumbnails=False,
            keep=1,
            shortlist=7,
            pictures=pictures.append,
            report=told.append,
            progress=lambda stage, done, total: None,
        )
    assert {warning.filename for warning in caught if "now called" in str(warning.message)} == {__file__}
    texts = " ".join(str(warning.message) for warning in caught)
    assert "`recall` of build_model is now called `index=IndexSpec(recall=...)`" in texts
    assert "`with_thumbnails` of build_model is now called `options=BuildOptions(thumbnails=...)`" in texts
    content = json.loads((version / "manifest.json").read_text())
    assert (content["index"]["kind"], content["index"]["metric"]) == ("hashing", "euclidean")
    assert content["recall"]["target"] == 0.8
    assert content["recall"]["source"] == "queries of the caller"
    assert content["default_k"] == 3
    assert content["source"] == {"from": "here"}
    assert any("built in" in text for text in told)
    assert len(pictures) == 1
    with pytest.raises(TypeError, match="Pass `index` without the older arguments"):
        export.build_model(tmp_path / "m", gallery, index=export.IndexSpec(), recall=0.5)
    with pytest.raises(TypeError, match="Pass `options` without the older arguments"):
        export.build_model(tmp_path / "m", gallery, options=export.BuildOptions(), keep=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'kepp'"):
        export.build_model(tmp_path / "m", gallery, kepp=3)


def test_older_pair_scorer_argument(image_encoder, tmp_path):
    gallery = small_gallery(30, 24)
    with pytest.warns(DeprecationWarning, match=r"`similarity` of build_model.*BuildOptions\(pair_scorer=...\)"):
        version = export.build_model(tmp_path / "m", gallery, similarity=image_encoder.pair_scorer)
    assert json.loads((version / "manifest.json").read_text())["reranking"]["shortlist"] == 100
    assert (version / "pair_scorer.keras").is_file()


def test_older_arguments_of_update_model_and_load(tmp_path):
    export.build_model(tmp_path / "m", small_gallery())
    told, steps = [], []
    with pytest.warns(DeprecationWarning, match="of update_model is now called a `Progress`") as caught:
        export.update_model(
            tmp_path / "m", remove=["item 0"], report=told.append, progress=lambda *step: steps.append(step)
        )
    assert caught[0].filename == __file__
    assert "30 items, 1 out, 0 in" in told
    with pytest.warns(DeprecationWarning, match="`brute_force` of load is now called `exact`") as caught:
        model = export.load(tmp_path / "m", brute_force=True)
    assert caught[0].filename == __file__
    assert len(model) == 29
    with pytest.raises(TypeError, match="got `exact` twice"):
        export.load(tmp_path / "m", brute_force=True, exact=True)


def test_progress_is_told(image_encoder, digits, tmp_path):
    told, stages = [], set()

    class Told(Progress):
        def message(self, text):
            told.append(text)

        def advance(self, stage, done, total):
            stages.add((stage, total))

    export.build_model(tmp_path / "m", digits.subset(range(10)), image_encoder, progress=Told())
    assert stages == {("embedding", 10), ("pictures", 10)}
    assert told[-1] == f"wrote {tmp_path / 'm' / '1'}"
    shutil.rmtree(tmp_path / "m")


@pytest.mark.parametrize(("unit", "metric"), [(False, "euclidean"), (True, "cosine")])
def test_the_index_ranks_as_the_encoder_is_evaluated(tmp_path, unit, metric):
    layers = [keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(5)]
    encoder = keras.Sequential([*layers, *([keras.layers.UnitNormalization()] if unit else [])])
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), np.uint8)
    split = Split(images, np.arange(12) % 3, ("a", "b", "c"))
    image_encoder = ImageEncoder(encoder, ImagePreprocessing(4))
    for spec in (None, export.IndexSpec("exact")):
        version = export.build_model(tmp_path / "m", split, image_encoder, index=spec)
        assert json.loads((version / "manifest.json").read_text())["index"]["metric"] == metric
    explicit = export.IndexSpec("exact", "dot_product")
    version = export.build_model(tmp_path / "m", split, image_encoder, index=explicit)
    assert json.loads((version / "manifest.json").read_text())["index"]["metric"] == "dot_product"
