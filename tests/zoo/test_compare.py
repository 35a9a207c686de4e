import json

import numpy as np
import pytest
from scipy import stats

from zoo import compare

BASE = [0.50, 0.52, 0.49, 0.51, 0.53, 0.50, 0.48]
BETTER = [0.54, 0.55, 0.53, 0.56, 0.55, 0.555, 0.52]


def experiment(folder, **arms):
    runs = []
    for arm, values in arms.items():
        for seed, value in values.items() if isinstance(values, dict) else enumerate(values):
            run = folder / arm / f"seed-{seed}"
            run.mkdir(parents=True)
            (run / "run.json").write_text(json.dumps({"format": 1, "name": "toy", "arm": arm, "seed": seed}))
            (run / "metrics.json").write_text(json.dumps({"last": {"recall@1": value, "map@r": value / 2}}))
            runs.append(f"{arm}/seed-{seed}")
    (folder / "experiment.json").write_text(json.dumps({"format": 1, "runs": runs, "exported": runs[0]}))
    return folder


def test_differences_are_paired_by_seed(tmp_path):
    folder = experiment(tmp_path, baseline=dict(enumerate(BASE)), das=dict(reversed(list(enumerate(BETTER)))))
    baseline, das = compare.read_groups([folder])
    one = compare.compare(baseline, das, "recall@1")
    differences = np.subtract(BETTER, BASE)
    assert one.seeds == tuple(range(7))
    assert one.mean == pytest.approx(differences.mean())
    assert one.spread == pytest.approx(differences.std(ddof=1))
    assert one.t_test == pytest.approx(stats.ttest_rel(BETTER, BASE).pvalue)
    assert one.wilcoxon == pytest.approx(2 / 2**7)
    assert one.interval == pytest.approx(stats.ttest_rel(BETTER, BASE).confidence_interval(0.95))
    assert compare.wording(one) == "higher, beyond what seeds alone produce"


def test_arms_can_be_compared_by_folder_and_their_selection_runs_are_left_out(tmp_path):
    folder = experiment(tmp_path, baseline=BASE[:3], das=BETTER[:3], other=BASE[:3])
    (folder / "das" / "selection").mkdir()
    (folder / "das" / "selection" / "run.json").write_text("{}")
    groups = compare.read_groups([folder / "other", folder / "das"])
    assert [(group.name, len(group.values)) for group in groups] == [("other", 3), ("das", 3)]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ([0.5], [0.6], "one seed: no spread, no test"),
        ([0.5, 0.6], [0.5, 0.6], "no difference at any seed"),
        ([0.5, 0.25], [0.75, 0.5], "higher by the same amount at every seed"),
        ([0.5, 0.5, 0.5], [0.6, 0.4, 0.51], "higher; these seeds do not settle it"),
        (BASE[:3], np.subtract(BASE[:3], [0.3, 0.301, 0.299]).tolist(), "lower; 3 seeds are few, a sign at best"),
    ],
)
def test_wording_is_no_bolder_than_the_seeds(tmp_path, before, after, words):
    groups = compare.read_groups([experiment(tmp_path, a=before, b=after)])
    assert words in compare.wording(compare.compare(*groups, "recall@1"))


def test_report_and_terminal_table(tmp_path, capsys):
    folder = experiment(tmp_path, baseline=BASE[:3], das=BETTER[:3], other=BASE[:3])
    assert compare.main([str(folder), "--metrics", "recall@1", "--output", str(tmp_path / "c.md")]) == 0
    shown, written = capsys.readouterr().out, (tmp_path / "c.md").read_text()
    for text in (shown, written):
        assert "das minus baseline, seed by seed" in text
        assert "other minus baseline, seed by seed" in text
        assert "+0.0367" in text
        assert "Wilcoxon's p cannot fall below 0.25" in text
        assert "MAP@R" not in text
    table = [line for line in shown.splitlines() if line.startswith("|")][:5]
    assert len({len(line) for line in table}) == 1
    assert table[2].split("|")[1:4] == [" baseline ", " 3     ", f" {np.mean(BASE[:3]):.4f} ± 0.0153 "]


def test_seeds_without_partner_are_named(tmp_path):
    folder = experiment(tmp_path, a={0: 0.5, 1: 0.6, 7: 0.9}, b={0: 0.6, 1: 0.65, 3: 0.1})
    groups = compare.read_groups([folder])
    assert compare.compare(*groups, "recall@1").mean == pytest.approx(0.075)
    assert "left out: 3, 7" in compare.report(groups)


def test_baseline_by_name_and_separate_experiments(tmp_path, capsys):
    first = experiment(tmp_path / "one", das=BASE[:2])
    second = experiment(tmp_path / "two", das=BETTER[:2])
    assert [group.name for group in compare.read_groups([first, second])] == ["one/das", "two/das"]
    seeds = [str(path) for folder in (first, second) for path in sorted((folder / "das").iterdir())]
    assert compare.main([*seeds, "--baseline", "two/das"]) == 0
    assert "one/das minus two/das" in capsys.readouterr().out


def test_errors_are_one_line(tmp_path, capsys):
    folder = experiment(tmp_path / "x", a={0: 0.5}, b={1: 0.5})
    (tmp_path / "y").mkdir()
    unfinished = experiment(tmp_path / "z", a=[0.5], b=[0.5])
    (unfinished / "b" / "seed-0" / "metrics.json").unlink()
    cases = [
        ([folder], "no seed in common"),
        ([folder / "a" / "seed-0"], "at least two arms"),
        ([folder, "--baseline", "das"], "Unknown arm 'das'"),
        ([folder, "--metrics", "recal@1"], "Did you mean 'recall@1'"),
        ([tmp_path / "y"], "neither run.json nor experiment.json"),
        ([unfinished], "no metrics of a finished training"),
        ([folder, folder], "two runs of arm"),
    ]
    for arguments, message in cases:
        assert compare.main(list(map(str, arguments))) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
