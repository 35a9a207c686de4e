"""The report of an experiment: one page for all arms and seeds, and one for each arm's first seed."""

import html
import html.parser
import json
import re
import shutil

import numpy as np
import pytest
from test_report import chromium, needs_chromium

from zoo import compare, reproduce
from zoo.report import write_report
from zoo.report.__main__ import main
from zoo.runs import SELECTION_RUN
from zoo.titles import TITLES, title

SMALL = [
    *("--epochs", "2", "--set", "seeds=(3, 4)", "--set", "select_epoch=False"),
    *("--set", "lr_milestones=()", "--set", "backbone_options.widths=(4, 8)"),
]
PROBE = """
<script>
addEventListener('load', () => {
  const root = document.documentElement;
  document.body.dataset.probe = JSON.stringify({
    broken: [...document.images].filter(i => i.complete && !i.naturalWidth).length,
    widths: [root.scrollWidth, root.clientWidth],
    text: [...document.querySelectorAll('svg text')].map(t => getComputedStyle(t).fill),
    lines: [...document.querySelectorAll('path.line')].map(l => getComputedStyle(l).stroke),
  });
});
</script>
"""


class Page(html.parser.HTMLParser):
    """What a page consists of, without a browser."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def attributes(self, name, *tags):
        return [attrs[name] for tag, attrs in self.elements if name in attrs and (not tags or tag in tags)]

    def classed(self, *words):
        return [attrs for _, attrs in self.elements if set(words) <= set((attrs.get("class") or "").split())]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert reproduce.main(["digits", "--output", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture(scope="module")
def report(experiment):
    return write_report(experiment, projection="pca")


def section(text, key):
    return re.search(rf'<section id="{key}".*?</section>', text, re.S)[0]


def rows(text):
    """The cells of each row of the tables in a section."""
    return [
        [html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.S)
    ]


def test_table_holds_arms_and_rivals(report, experiment):
    head, *body = rows(section(report.read_text(), "arms"))
    assert head == ["Arm", "Seeds", "Recall@1", "Recall@2", "Recall@4", "Recall@8", "MAP@R", "NMI", "F1"]
    assert [row[:2] for row in body] == [["raw pixels", "1"], ["untrained", "2"], ["baseline", "2"], ["das", "2"]]
    measured = json.loads((experiment / "metrics.json").read_text())["arms"]
    assert body[0][2] == f"{100 * measured['raw pixels']['recall@1'][0]:.1f}"
    for name, _, first, *_ in body[1:]:
        values = 100 * np.array(measured[name]["recall@1"])
        assert first == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def test_differences_are_those_of_compare(report, experiment):
    text = section(report.read_text(), "differences")
    baseline, das = compare.read_groups([experiment])
    for metric, row in zip(("recall@1", "map@r"), [row for row in rows(text) if row[0] == "das"], strict=False):
        one = compare.compare(baseline, das, metric)
        low, high = (f"{100 * end:+.1f}" for end in one.interval)
        assert row == ["das", f"{100 * one.mean:+.1f}", f"{low} to {high}", "2", compare.wording(one)]
    assert re.findall(r"<h3>(.*?)</h3>", text)[:3] == ["Recall@1", "MAP@R", "Recall@2"]
    assert "Each arm minus baseline" in text


def test_curves_hold_all_arms_and_seeds(report):
    text = section(report.read_text(), "curves")
    first = re.search(r"<svg.*?</svg>", text, re.S)[0]
    assert 'aria-label="Recall@1, unseen classes"' in first
    assert "baseline, mean of 2 seeds: first" in first
    assert re.findall(r'class="(line|seed|band) s(\d)"', first) == [
        *(("band", "0"), ("band", "1")),
        *(("seed", "0"), ("seed", "0"), ("seed", "1"), ("seed", "1")),
        *(("line", "0"), ("line", "1")),
    ]
    ticks = re.findall(r"<text[^>]*>([^<]*)</text>", first)
    assert ticks[:4] == ["0", "1", "2", "epoch"]
    # Alone in its chart, an arm keeps its color.
    produced = text.split("<h3>Distance of produced embeddings</h3>")[1].split("<h3>")[0]
    assert 'class="line s1"' in produced
    assert 'class="line s0"' not in produced


def test_logs_have_words_and_constants_no_chart(report, experiment):
    for path in (report, experiment / "das" / "seed-3" / "report.html"):
        shown = path.read_text().split('<section id="recipe"')[0]
        assert not re.search("produced_|bank_fill|active_pairs", shown)
        assert not re.search(r'aria-label="Filled share', shown)
        assert re.search(
            r"<h3>Filled share of the transformation bank</h3>\s*<p class=\"note\">\S+ at every epoch", shown
        )


def test_every_log_of_a_run_has_a_title(experiment):
    for arm in ("baseline", "das"):
        for name in json.loads((experiment / arm / "seed-3" / "history.json").read_text()):
            assert name.removeprefix("val_") in TITLES or "recall@" in name
            assert "_" not in title(name)


def test_the_same_queries_stand_under_each_arm(report, experiment):
    text = section(report.read_text(), "neighbors")
    assert "8 queries, the same for every arm, drawn at random (seed 0)" in text
    assert text.count('<div class="compared"') == 8
    assert text.count("<h3>baseline <small>") == text.count("<h3>das <small>") == 8
    page = Page(text)
    assert len(page.classed("tile", "query")) == 8
    right, wrong = len(page.classed("tile", "right")), len(page.classed("tile", "wrong"))
    assert right + wrong == 8 * 2 * 6
    assert right == sum(map(int, re.findall(r"<small>(\d) of 6 right</small>", text)))
    queries = [
        re.findall(r'aria-label="Query \d, (\d)"', section(write.read_text(), "neighbors")) for write in (report,)
    ]
    # Five classes, each once before one comes again.
    assert len(set(queries[0][:5])) == 5


def test_queries_follow_the_seed_and_not_the_results(report, experiment, tmp_path):
    again = write_report(experiment, output=tmp_path / "again.html", projection="pca")
    other = write_report(experiment, output=tmp_path / "other.html", projection="pca", seed=1)
    drawn = [
        re.findall(r'Query</b>|src="([^"]*)"', section(path.read_text(), "neighbors"))
        for path in (report, again, other)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_runs_are_linked_and_written_beside(report, experiment, tmp_path):
    links = Page(section(report.read_text(), "runs")).attributes("href", "a")
    assert links == ["baseline/seed-3/report.html", "das/seed-3/report.html"]
    for link in links:
        assert 'id="metrics"' in (experiment / link).read_text()
    assert not (experiment / "das" / "seed-4" / "report.html").exists()
    # Elsewhere, they lie beside the page.
    elsewhere = write_report(experiment, output=tmp_path / "all.html", projection="pca")
    links = Page(section(elsewhere.read_text(), "runs")).attributes("href", "a")
    assert links == ["all-baseline-seed-3.html", "all-das-seed-3.html"]
    assert all((tmp_path / link).is_file() for link in links)


def test_a_run_folder_gives_the_page_of_the_run(experiment, tmp_path, capsys):
    assert main([str(experiment / "das" / "seed-4"), "--map", "pca", "--output", str(tmp_path / "run.html")]) == 0
    assert "<title>digits, das, seed 4</title>" in (tmp_path / "run.html").read_text()
    assert "Written to" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["report.html", "das/seed-3/report.html"])
def test_pages_are_self_contained_and_accessible(report, experiment, name):
    text = (experiment / name).read_text()
    page = Page(text)
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids)
    assert "Content-Security-Policy" in text
    assert all(source.startswith("data:") for source in page.attributes("src"))
    assert not re.search(r"https?://", text)
    assert all(attrs.get("aria-label") for tag, attrs in page.elements if tag == "svg")
    assert all("alt" in attrs for tag, attrs in page.elements if tag == "img")
    assert set(page.attributes("aria-describedby")) | set(page.attributes("aria-labelledby")) <= set(ids)
    assert all(attrs.get("tabindex") == "0" and attrs.get("aria-label") for attrs in page.classed("scroll"))
    assert {link[1:] for link in page.attributes("href", "a") if link.startswith("#")} <= set(ids)
    assert "None" not in re.sub(r'<section id="recipe".*?</section>', "", text, flags=re.S)


def test_rivals_of_the_record_have_rows_and_lines(experiment, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(experiment, folder)
    record = json.loads((folder / "record.json").read_text())
    record["rivals"] = {"raw <pixels>": {"recall@1": 0.991, "map@r": [0.8]}}
    (folder / "record.json").write_text(json.dumps(record))
    text = write_report(folder, projection="pca").read_text()
    body = rows(section(text, "arms"))[1:]
    assert body[0][:4] == ["raw <pixels>", "1", "99.1", "-"]
    assert [row[0] for row in body] == ["raw <pixels>", "raw pixels", "untrained", "baseline", "das"]
    first = re.search(r"<svg.*?</svg>", section(text, "curves"), re.S)[0]
    assert first.count('class="reference"') == 3
    assert "raw &lt;pixels&gt;</text>" in first


def test_unfinished_runs_are_named(experiment, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(experiment, folder)
    for name in ("metrics.json", "record.json", "das/seed-4/metrics.json"):
        (folder / name).unlink()
    text = write_report(folder, projection="pca").read_text()
    assert "Not finished, and not shown: das/seed-4." in text
    assert rows(section(text, "arms"))[1][:2] == ["untrained", "2"]
    assert "one seed: no spread, no test" in text
    for run in folder.glob("*/*/metrics.json"):
        run.unlink()
    with pytest.raises(ValueError, match="no finished run"):
        write_report(folder)


def test_one_arm_has_nothing_to_be_compared_with(experiment, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(experiment, folder, ignore=shutil.ignore_patterns(SELECTION_RUN, "export"))
    config = json.loads((folder / "experiment.json").read_text())
    config["runs"] = [run for run in config["runs"] if run.startswith("das")]
    (folder / "experiment.json").write_text(json.dumps(config))
    text = write_report(folder, projection="pca").read_text()
    assert 'id="differences"' not in text
    assert "<h3>das <small>" in text


def test_arms_with_other_test_images_are_left_out(experiment, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(experiment, folder)
    file = folder / "das" / "seed-3" / "test_embeddings.npz"
    with np.load(file) as saved:
        arrays = dict(saved)
    arrays["ids"] = arrays["ids"][::-1]
    np.savez(file, **arrays)
    text = section(write_report(folder, projection="pca").read_text(), "neighbors")
    assert "left out: das." in text
    assert "<h3>das <small>" not in text


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_page_in_a_browser(report, tmp_path, width, dark):
    text = report.read_text().replace("</body>", PROBE + "</body>")
    page = tmp_path / "page.html"
    # A window of Chromium is not as narrow as a phone; a frame is.
    frame = f'<iframe id="frame" width="{width}" height="900" srcdoc="{html.escape(text, quote=True)}"></iframe>'
    copy = """<script>addEventListener('load', () => {
        document.body.dataset.seen = document.getElementById('frame').contentDocument.body.dataset.probe;
    })</script>"""
    page.write_text(f"<!doctype html><body>{frame}{copy}</body>")
    flags = ["--window-size=1400,1000", *(["--blink-settings=preferredColorScheme=0"] if dark else [])]
    document, console = chromium(tmp_path, page, *flags)
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', document)[1]))
    assert console == []
    assert seen["broken"] == 0
    assert seen["widths"][0] <= seen["widths"][1] <= width
    assert set(seen["text"]) == {"rgb(145, 152, 161)" if dark else "rgb(89, 99, 110)"}
    assert ("rgb(88, 166, 255)" if dark else "rgb(9, 105, 218)") in seen["lines"]
