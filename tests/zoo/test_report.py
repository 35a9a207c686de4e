"""The report is written for a run with everything in it and opened in a headless Chromium."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import pytest

from keras_dml import data
from keras_dml.utils import files
from keras_dml.utils.files import as_json
from zoo import recipes
from zoo.figures import Curve, draw_curves, epoch_ticks
from zoo.record import changed_settings_of_run
from zoo.report import check_output, write_report, writing
from zoo.report.__main__ import main
from zoo.report.charts import curve_chart, histogram, line_chart

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium on the PATH to open the page: apt-get install chromium"
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--disable-component-update",
    "--no-first-run",
    "--disable-quic",
    "--enable-logging=stderr",
]
# Runs in the page after its own script, as a visitor with a mouse and then with a keyboard would.
PROBE = """
<script>
const seen = {};
seen.requests = performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'));
seen.broken = [...document.images].filter(i => i.complete && !i.naturalWidth).length;
seen.images = document.images.length;
seen.headings = [...document.querySelectorAll('h2')].map(h => h.textContent);
seen.values = Object.fromEntries([...document.querySelectorAll('.card')].map(
  c => [c.querySelector('dt').textContent, c.querySelector('dd').textContent]));
seen.right = document.querySelectorAll('.tile.right').length;
seen.wrong = document.querySelectorAll('.tile.wrong').length;
seen.lines = document.querySelectorAll('path.line').length;
seen.areas = document.querySelectorAll('path.area').length;
const head = [...document.querySelectorAll('#classes th button')].find(b => b.textContent === 'Images');
const column = () => [...document.querySelectorAll('#classes tbody tr')].map(r => +r.cells[1].textContent);
head.focus(); head.click(); seen.ascending = column();
head.click(); seen.descending = column(); seen.sort = head.parentElement.getAttribute('aria-sort');
const svg = document.querySelector('.map svg'), tip = document.querySelector('.map .tip');
seen.dots = svg.querySelectorAll('circle').length;
svg.focus();
const press = key => svg.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
press('ArrowRight'); seen.first = tip.textContent;
for (const key of ['ArrowLeft', 'ArrowUp', 'ArrowLeft', 'ArrowUp']) press(key);
seen.later = tip.textContent; seen.live = document.querySelector('.live').textContent;
seen.thumbnail = tip.querySelector('i') ? tip.querySelector('i').style.backgroundImage.slice(0, 16) : null;
press('Escape'); seen.hidden = tip.style.display;
const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
seen.repeated = ids.filter((id, at) => ids.indexOf(id) !== at);
seen.unnamed = [...document.querySelectorAll('img:not([alt]), svg:not([aria-label])')].length;
seen.reachable = [...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0);
seen.back = getComputedStyle(document.body).backgroundColor;
seen.ink = getComputedStyle(document.body).color;
document.body.append(Object.assign(document.createElement('pre'), { id: 'probe', textContent: JSON.stringify(seen) }));
</script>
"""


def chromium(tmp_path, page, *flags):
    """Opens a page; returns its document after the scripts have run, and what the console says."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, "--dump-dom", page.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return run.stdout, [line for line in run.stderr.splitlines() if ":CONSOLE" in line]


def probe(tmp_path, report, *flags):
    text = report.read_text()
    # Without its policy, so that a request would be made, and seen.
    free = re.sub(r"<meta http-equiv=\"Content-Security-Policy\".*?>", "", text)
    assert free != text
    page = tmp_path / "probed.html"
    page.write_text(free.replace("</body>", PROBE + "</body>"))
    document, console = chromium(tmp_path, page, *flags)
    found = re.search(r'<pre id="probe">(.*?)</pre>', document, re.S)
    assert found, (console, document[-500:])
    return json.loads(html.unescape(found[1])), console


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder on the digits with everything a report can show."""
    import keras

    from keras_dml.layers import PDDMUnit

    folder = tmp_path_factory.mktemp("run")
    benchmark = data.load("digits")
    test, rng = benchmark.test, np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(16),
            keras.layers.UnitNormalization(),
        ]
    )
    encoder.save(folder / "encoder.keras")
    images = np.stack(list(test)).astype(np.float32)
    np.savez(
        folder / "test_embeddings.npz",
        embeddings=encoder.predict(images, verbose=0),
        labels=test.labels,
        ids=np.array(test.ids),
        class_names=np.array(["five", "six", "seven", "eight", "<b>nine & more</b>"]),
    )
    np.savez(
        folder / "das_state.npz",
        frequency_recorder_matrix=rng.integers(0, 50, (5, 16)),
        transformation_bank=rng.normal(0, 0.2, (5, 10, 16)).astype(np.float32),
        bank_fill=np.array([10, 10, 3, 0, 10]),
    )
    left, right = keras.Input((16,)), keras.Input((16,))
    keras.Model([left, right], PDDMUnit()([left, right])).save(folder / "similarity.keras")
    config = {
        "format": 1,
        "name": "digits <toy>",
        "arm": "das",
        "seed": 3,
        "benchmark": "digits",
        "recipe": {
            "ks": [1, 2, 4, 8],
            "epochs": 3,
            "evaluate_every": 1,
            "das": {"shift_scale": 0.01, "top_k": 4, "scale_range": [0.99, 1.01]},
            "published": {"source": "a paper, table 1", "metrics": {"recall@1": 87.5}},
        },
        "preprocessing": {"size": 8, "resize": 8, "channels": 1},
        "embedding_dim": 16,
    }
    (folder / "run.json").write_text(json.dumps(config))
    history = {"loss": [0.5, 0.2, 0.1], "val_recall@1": [0.7, None, 0.9], "val_map@r": [0.2, 0.3, 0.35]}
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "metrics.json").write_text(json.dumps({"last": {"recall@1": 0.9}, "untrained": {"recall@1": 0.625}}))
    return folder


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    return write_report(run, output=tmp_path_factory.mktemp("page") / "report.html", projection="pca")


def test_page_holds_everything_itself(report):
    text = report.read_text()
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#|["'])[a-z]*:?//""", text)
    assert "@import" not in text
    assert len(text) < 3_000_000
    assert "&lt;b&gt;nine &amp; more&lt;/b&gt;" in text
    assert "<b>nine" not in text
    assert "digits &lt;toy&gt;, das, seed 3" in text


@needs_chromium
def test_page_in_a_browser(report, run, tmp_path):
    from keras_dml.evaluation import evaluate_retrieval

    seen, console = probe(tmp_path, report, "--window-size=1200,900")
    assert console == []
    assert seen["requests"] == []
    assert seen["broken"] == 0
    assert seen["headings"] == [
        "Headline metrics",
        "Learning curves",
        "Best and worst queries",
        "Map of the embedding",
        "Classes",
        "Confusion",
        "Densely-anchored sampling",
        "PDDM scores",
        "Recipe",
    ]
    with np.load(run / "test_embeddings.npz") as saved:
        result = evaluate_retrieval(saved["embeddings"], saved["labels"])
    first = seen["values"]["Recall@1"]
    assert first.startswith(f"{result.recall[1]:.1%}")
    assert "published: 87.5%" in first
    assert "untrained: 62.5%" in first
    assert seen["values"]["MAP@R"].startswith(f"{result.map_at_r:.1%}")
    # Sixteen queries with eight neighbors each, the best all right and the worst mostly wrong.
    assert seen["right"] + seen["wrong"] == 128
    assert seen["right"] >= 64
    assert seen["wrong"] >= 32
    assert seen["images"] > 144
    assert seen["lines"] == 3
    assert seen["areas"] == 4
    assert seen["ascending"] == sorted(seen["ascending"])
    assert sum(seen["ascending"]) == 896
    assert seen["descending"] == seen["ascending"][::-1]
    assert seen["sort"] == "descending"
    assert seen["dots"] == 896
    assert "digit-" in seen["first"]
    assert seen["later"] != seen["first"]
    assert seen["live"] == seen["later"]
    assert seen["thumbnail"].startswith('url("data:image')
    assert seen["hidden"] == "none"
    assert seen["repeated"] == []
    assert seen["unnamed"] == 0
    assert seen["reachable"]


@needs_chromium
def test_page_in_the_dark(report, tmp_path):
    light, _ = probe(tmp_path, report)
    dark, _ = probe(tmp_path, report, "--blink-settings=preferredColorScheme=0")
    assert (light["back"], light["ink"]) == ("rgb(255, 255, 255)", "rgb(31, 35, 40)")
    assert (dark["back"], dark["ink"]) == ("rgb(13, 17, 23)", "rgb(230, 237, 243)")


@needs_chromium
def test_page_on_a_phone_does_not_scroll_sideways(report, tmp_path):
    frame = (
        f'<iframe id="phone" width="390" height="800" srcdoc="{html.escape(report.read_text(), quote=True)}"></iframe>'
    )
    script = """<script>addEventListener('load', () => {
        const inner = document.getElementById('phone').contentDocument.documentElement;
        document.body.dataset.widths = inner.scrollWidth + ' ' + inner.clientWidth;
    })</script>"""
    page = tmp_path / "phone.html"
    page.write_text(f"<!doctype html><body>{frame}{script}</body>")
    document, console = chromium(tmp_path, page)
    scroll, width = map(int, re.search(r'data-widths="(\d+) (\d+)"', document).groups())
    assert 300 < width <= 390
    assert scroll <= width
    assert console == []


def test_pair_scorer_has_its_section_under_either_name(run, tmp_path):
    for name in ("similarity.keras", "pair_scorer.keras"):
        folder = changed_run(run, tmp_path / name)
        shutil.copy(run / "similarity.keras", folder / name)
        text = write_report(folder, projection="pca").read_text()
        assert "a pair of one class scores above a pair of two in" in text
        assert 'aria-label="PDDM scores of positive and negative pairs"' in text


def test_page_without_images_or_extras(run, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(run / "test_embeddings.npz", folder)
    config = json.loads((run / "run.json").read_text()) | {"benchmark": "unheard-of"}
    (folder / "run.json").write_text(json.dumps(config))
    text = write_report(folder, projection="pca").read_text()
    assert "No thumbnails: Unknown benchmark" in text
    assert 'id="queries"' in text
    assert 'class="tile wrong"' in text
    assert "data:image" not in text
    for section in ("training", "das", "pddm"):
        assert f'id="{section}"' not in text


def changed_run(run, folder, **changes):
    """A bare copy of a run with other entries in run.json."""
    folder.mkdir()
    for name in ("test_embeddings.npz", "history.json", "metrics.json"):
        shutil.copy(run / name, folder)
    config = json.loads((run / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(config | changes))
    return folder


def test_no_published_figure_beside_part_of_the_data(run, tmp_path):
    for subset in (False, True):
        folder = changed_run(run, tmp_path / str(subset), data={"subset": subset})
        cards = write_report(folder, projection="pca").read_text().partition('<h2 id="recipe-heading"')[0]
        assert ("published: 87.5%" in cards) is not subset
        assert ("Published figures: a paper, table 1." in cards) is not subset
        assert ("Measured on part of the data" in cards) is subset


def test_changed_settings_are_named_beside_published_figures(run, tmp_path):
    digits = recipes.get("digits")
    figures = {"source": "a paper", "metrics": {"recall@1": 87.5}}
    settings = dataclasses.replace(digits, epochs=3).arm("das").to_dict() | {"published": figures}
    folder = changed_run(run, tmp_path / "run", name="digits", arm="das", recipe=settings)
    cards = write_report(folder, projection="pca").read_text().partition('<h2 id="recipe-heading"')[0]
    assert "published, with other epochs: 87.5%" in cards
    assert "Trained with other epochs than the recipe digits." in cards


def test_settings_of_a_run_are_compared_with_those_of_its_arm():
    recipe = recipes.get("cub200")

    def changed(**changes):
        each = dataclasses.replace(recipe, **changes)
        return {
            arm: changed_settings_of_run({"name": "cub200", "arm": arm, "recipe": as_json(each.arm(arm).to_dict())})
            for arm in each.arms
        }

    arms = dict(recipe.arms)
    assert changed(seeds=(7,), weights="file.h5") == {arm: [] for arm in arms}
    assert changed(weights=None, epochs=3) == {arm: ["epochs", "weights"] for arm in arms}
    first, *others = arms
    assert changed(arms={**arms, first: {**arms[first], "epochs": 3}}) == {first: ["epochs"]} | {a: [] for a in others}
    # An arm that the recipe does not have is compared with what all arms have in common.
    assert changed(arms={"new": {"epochs": 3, "das": recipe.das}}) == {"new": ["epochs"]}
    assert changed_settings_of_run({"name": "mine", "recipe": {"epochs": 3}}) == []


def test_curves_are_drawn_at_the_epochs_of_the_evaluations(run, tmp_path):
    settings = json.loads((run / "run.json").read_text())["recipe"]
    folder = changed_run(run, tmp_path / "run", recipe=settings | {"epochs": 9, "evaluate_every": 4})
    history = {"loss": np.linspace(1, 0.2, 9).tolist(), "val_map@r": [0.2, 0.3, 0.35]}
    (folder / "history.json").write_text(json.dumps(history))
    text = write_report(folder, projection="pca").read_text()
    places = {
        name: [float(place) for place in re.findall(r"[ML]([\d.]+) ", path)]
        for path, name in re.findall(r'<path class="line s0" d="([^"]*)"><title>(.*?)</title>', text)
    }
    assert len(places["Loss"]) == 9
    # After epochs 1, 5 and 9, of nine.
    assert places["MAP@R"] == [places["Loss"][epoch] for epoch in (0, 4, 8)]
    (folder / "history.json").write_text(json.dumps({"val_map@r": [0.2, 0.3]}))
    with pytest.raises(ValueError, match="shorter"):
        write_report(folder, projection="pca")


def test_a_single_evaluation_is_a_dot_at_its_epoch():
    chart = line_chart({"all": {1: 0.0, 2: 0.5, 3: 1.0}, "one": {1: None, 3: 1.0}}, "label").svg
    last = re.search(r'<path class="line s0" d="[^"]*L([\d.]+ [\d.]+)"', chart)[1]
    x, y = re.search(r'<circle class="dot s1" cx="([\d.]+)" cy="([\d.]+)"', chart).groups()
    assert f"{x} {y}" == last


def test_charts_take_their_colors_from_the_page_and_are_named():
    curve = Curve("<b>", (0, 1, 2), np.array([[0.0, 0.5, 0.7], [0.0, 0.3, 0.9]]), 9)
    charts = [
        line_chart({"a & b": {1: 0.25, 2: 0.5}}, "a log"),
        histogram({"some": [1.0, 2.0, 2.5]}, "shares", "x"),
        curve_chart([curve], "arms", {"raw pixels": 0.25}),
    ]
    for chart in charts:
        root = ElementTree.fromstring(chart.svg)
        assert (root.get("role"), root.get("aria-label")) == ("img", chart.title)
        assert root.find("desc").get("id") == root.get("aria-describedby")
        # No color of matplotlib's, and no id but that of the description.
        assert not re.search(r"#[0-9a-f]{3}", chart.svg)
        assert chart.svg.count(' id="') == 1
        assert "currentColor" in chart.svg
    assert "first 0.25, last 0.5" in charts[0].svg
    assert "<title>a &amp; b</title>" in charts[0].svg
    shapes = [
        (path.get("class"), path.findtext("title")) for path in ElementTree.fromstring(charts[2].svg).iter("path")
    ]
    assert [shape for shape in shapes if shape[0]] == [
        ("band s1 d1", None),
        ("seed s1 d1", None),
        ("seed s1 d1", None),
        ("line s1 d1", "<b>"),
        ("reference", "raw pixels"),
    ]
    assert [(entry.name, entry.value) for entry in charts[2].legend] == [("<b>", "0.8"), ("raw pixels", "0.25")]


def test_a_constant_is_said_and_not_drawn():
    chart = line_chart({"rate": {1: 0.5, 2: 0.5}}, "rate")
    assert (chart.svg, chart.words) == (None, "0.5 at every epoch.")
    assert line_chart({"a": {1: 1.0}, "b": {1: 2.0}}, "two").words == (
        "a: 1 at the only epoch with a value. b: 2 at the only epoch with a value."
    )
    assert line_chart({"a": {1: None}}, "none").words == "No values."
    assert line_chart({"a": {1: 1.0, 2: 1.0}, "b": {1: 1.0, 2: 2.0}}, "one varies").svg


@pytest.mark.parametrize(
    ("first", "last", "ticks"),
    [
        (1, 1, [1]),
        (0, 6, [0, 1, 2, 3, 4, 5, 6]),
        (1, 10, [1, 2, 4, 6, 8, 10]),
        (1, 99, [1, 20, 40, 60, 80, 99]),
        (0, 1000, [0, 200, 400, 600, 800, 1000]),
    ],
)
def test_epochs_are_marked_by_whole_numbers_from_the_first_to_the_last(first, last, ticks):
    assert epoch_ticks(first, last) == ticks


def test_every_epoch_range_has_a_few_ticks():
    for last in range(1, 3000):
        ticks = epoch_ticks(1, last)
        assert (ticks[0], ticks[-1]) == (1, last)
        assert len(ticks) <= 10


@pytest.mark.parametrize(
    "values", [(0.0, 1.0), (0.9991, 0.9993), (-3.0, 12345.0), (1e-9, 3e-9), (2.0, 9e7), (0.25, 0.75)]
)
def test_values_have_ticks_that_differ_and_enclose_them(values):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    draw_curves(axes, [Curve("a", (1, 2), np.array([values]), 0)])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    low, high = axes.get_ylim()
    assert low <= values[0] < values[1] <= high
    assert 3 <= len(set(labels)) == len(labels) <= 8


def test_images_of_other_data_are_not_shown(run, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(run, folder)
    with np.load(run / "test_embeddings.npz") as saved:
        arrays = dict(saved)
    arrays["ids"] = arrays["ids"][::-1]
    np.savez(folder / "test_embeddings.npz", **arrays)
    assert "are not the ones that were embedded" in write_report(folder, projection="pca").read_text()


def test_many_classes_stay_readable(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(1600) % 800
    vectors = rng.standard_normal((800, 8))[labels] + 0.6 * rng.standard_normal((1600, 8))
    np.savez(tmp_path / "test_embeddings.npz", embeddings=vectors.astype(np.float32), labels=labels)
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, "name": "many"}))
    text = write_report(tmp_path, projection="pca").read_text()
    assert "The 150 worst and best of 800 classes" in text
    assert text.count('<td class="text">') < 400
    assert "most frequent of" in text
    assert text.count("<circle") == 1200


def test_command_line(run, tmp_path, capsys):
    assert main([str(run), "--output", str(tmp_path / "x.html"), "--map", "pca"]) == 0
    assert str(tmp_path / "x.html") in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "There is no folder" in capsys.readouterr().err


def test_the_output_is_checked_before_the_work_begins(run, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(writing, "evaluate_run", lambda *_: pytest.fail("the run was evaluated"))
    cases = {tmp_path / "file" / "x.html": "is a file, not a folder", tmp_path: "is a folder"}
    for output, message in cases.items():
        assert main([str(run), "--output", str(output)]) == 2
        assert message in capsys.readouterr().err
        with pytest.raises(ValueError, match=message):
            write_report(run, output=output)
    check_output(tmp_path / "new" / "folder" / "x.html")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="no permission"):
        check_output(tmp_path / "x.html")
