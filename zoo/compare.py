"""Paired comparison of arms over seeds.

    keras-dml compare runs/digits                              every arm against the first
    keras-dml compare runs/digits --baseline baseline
    keras-dml compare runs/a/seed-* runs/b/seed-*              runs, grouped by the folder they lie in

Runs with the same seed share initial weights and batches, so differences are taken seed by seed.
"""

import argparse
import dataclasses
import math
import pathlib
from collections.abc import Sequence

import numpy as np

from keras_dml.utils.command import Parser, execute, run, wrong_call
from keras_dml.utils.files import check_output, written_aside
from keras_dml.utils.suggestions import unknown_name
from zoo.runs import open_run, run_folders
from zoo.tables import markdown, mean_and_spread, title


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one arm.

    Args:
        name: What the arm is called in the tables.
        values: Seed -> metric -> value at the end of training.
        distance: What its embeddings are compared by, "cosine" or "euclidean"; None where it is not known.
    """

    name: str
    values: dict[int, dict[str, float]]
    distance: str | None = None


@dataclasses.dataclass(frozen=True)
class Difference:
    """One arm against the baseline in one metric, over the seeds that both have.

    Args:
        metric: Name of the metric.
        seeds: The common seeds.
        baseline: Mean of the baseline over them.
        mean: Mean difference, arm minus baseline.
        spread: Sample standard deviation of the differences; NaN with one seed.
        interval: 95 % interval of the mean difference by Student's t; NaN with one seed.
        t_test: p-value of the paired t-test, two-sided; NaN where it does not exist.
        wilcoxon: p-value of Wilcoxon's signed-rank test, two-sided, exact; NaN where it does not exist.
    """

    metric: str
    seeds: tuple[int, ...]
    baseline: float
    mean: float
    spread: float
    interval: tuple[float, float]
    t_test: float
    wilcoxon: float


def read_groups(paths: Sequence[pathlib.Path]) -> list[Group]:
    """Groups all runs that the paths stand for by arm, in the order they come."""
    members: dict[tuple[pathlib.Path, str], dict[int, dict[str, float]]] = {}
    distances: dict[tuple[pathlib.Path, str], str] = {}
    for path in paths:
        for folder in run_folders(path):
            run = open_run(folder)
            if "last" not in run.metrics:
                raise ValueError(f"{folder} has no metrics of a finished training. Finish it, or leave it out.")
            arm, seed = str(run.config.get("arm", folder.parent.name)), int(run.config.get("seed", 0))
            key = (folder.parent.resolve(), arm)
            group = members.setdefault(key, {})
            if distances.setdefault(key, run.metric) != run.metric:
                raise ValueError(
                    f"{folder.parent} holds runs of arm {arm!r} that were evaluated by {distances[key]} distance and "
                    f"one by {run.metric} distance, {folder.name}. Leave one kind out."
                )
            if seed in group:
                raise ValueError(f"{folder.parent} holds two runs of arm {arm!r} with seed {seed}. Leave one out.")
            group[seed] = {name: float(value) for name, value in run.metrics["last"].items() if value is not None}
    arms = [arm for _, arm in members]
    return [
        Group(arm if arms.count(arm) == 1 else f"{parent.parent.name}/{parent.name}", values, distances[(parent, arm)])
        for (parent, arm), values in members.items()
    ]


def ranked_by(groups: Sequence[Group]) -> str | None:
    """By which distance each arm is ranked, in words, where they are not all ranked by the same."""
    kinds = {group.distance: [one.name for one in groups if one.distance == group.distance] for group in groups}
    if len(kinds) < 2:
        return None
    told = "; ".join(f"{', '.join(names)} by {kind or 'unknown'} distance" for kind, names in kinds.items())
    return f"Not all arms are ranked alike: {told}."


def compare(baseline: Group, arm: Group, metric: str) -> Difference:
    """Takes the differences seed by seed and tests their mean against 0."""
    seeds = tuple(seed for seed in sorted(baseline.values) if seed in arm.values)
    if not seeds:
        raise ValueError(
            f"{baseline.name!r} and {arm.name!r} have no seed in common, so nothing can be paired. "
            f"Seeds: {sorted(baseline.values)} and {sorted(arm.values)}"
        )
    before = np.array([baseline.values[seed][metric] for seed in seeds])
    differences = np.array([arm.values[seed][metric] for seed in seeds]) - before
    mean, spread, interval = float(differences.mean()), math.nan, (math.nan, math.nan)
    t_test = wilcoxon = math.nan
    if len(seeds) > 1:
        from scipy import stats

        spread = float(differences.std(ddof=1))
        if spread > 0:
            half = float(stats.t.ppf(0.975, len(seeds) - 1)) * spread / math.sqrt(len(seeds))
            interval = (mean - half, mean + half)
            t_test = float(stats.ttest_1samp(differences, 0.0).pvalue)
        if np.any(differences != 0):
            wilcoxon = float(stats.wilcoxon(differences, method="auto").pvalue)
    return Difference(metric, seeds, float(before.mean()), mean, spread, interval, t_test, wilcoxon)


def wording(difference: Difference) -> str:
    """What the seeds allow to say, in words."""
    n = len(difference.seeds)
    if n == 1:
        return "one seed: no spread, no test"
    if difference.mean == 0 and difference.spread == 0:
        return "no difference at any seed"
    direction = "higher" if difference.mean > 0 else "lower"
    if math.isnan(difference.t_test):
        return f"{direction} by the same amount at every seed, which no test can judge"
    if difference.t_test >= 0.05:
        return f"on average {direction}; these seeds do not settle it"
    if n < 6:
        return f"{direction}; {n} seeds are few, a sign at best"
    if difference.wilcoxon < 0.05:
        return f"{direction}, beyond what seeds alone produce"
    return f"{direction} by the t-test, not by the rank test"


def report(groups: Sequence[Group], metrics: Sequence[str] | None = None, baseline: str | None = None) -> str:
    """The comparison in Markdown: means of every arm, then paired differences to the baseline.

    Args:
        groups: At least two arms.
        metrics: Which metrics; all that every run has by default.
        baseline: Name of the arm the others are compared with; the first by default.
    """
    if len(groups) < 2:
        raise ValueError(
            f"A comparison needs at least two arms. Received: {', '.join(group.name for group in groups) or 'none'}"
        )
    names = [group.name for group in groups]
    if baseline is not None and baseline not in names:
        raise ValueError(unknown_name("arm", baseline, names))
    first = groups[names.index(baseline)] if baseline is not None else groups[0]
    others = [group for group in groups if group is not first]
    runs = [values for group in groups for values in group.values.values()]
    shared = [name for name in runs[0] if all(name in values for values in runs)]
    for name in metrics or ():
        if name not in shared:
            raise ValueError(unknown_name("metric", name, shared))
    chosen = list(metrics or shared)

    means = [["", "seeds", *map(title, chosen)]]
    for group in [first, *others]:
        cells = [mean_and_spread([values[name] for values in group.values.values()]) for name in chosen]
        means.append([group.name, str(len(group.values)), *cells])
    lines = [markdown(means), "", "Mean ± sample standard deviation over seeds.", ""]
    header = ["difference", "mean", "spread", "95 % interval", "t-test p", "Wilcoxon p", "in words"]
    fewest = math.inf
    for group in others:
        differences = [header]
        for name in chosen:
            one = compare(first, group, name)
            fewest = min(fewest, len(one.seeds))
            low, high = one.interval
            interval = "-" if math.isnan(low) else f"{low:+.4f} to {high:+.4f}"
            cells = [
                f"{one.mean:+.4f}",
                _number(one.spread),
                interval,
                _number(one.t_test, 3),
                _number(one.wilcoxon, 3),
            ]
            differences.append([title(name), *cells, wording(one)])
        left_out = sorted(set(first.values) ^ set(group.values))
        lines += [
            f"{group.name} minus {first.name}, seed by seed:",
            "",
            markdown(differences),
            "",
            *([f"Seeds without a partner, left out: {', '.join(map(str, left_out))}.", ""] if left_out else []),
        ]
    if 1 < fewest < 6:
        lines.append(
            f"With {int(fewest)} seeds Wilcoxon's p cannot fall below {2 / 2**fewest:.3g}, and the t-test rests on the "
            "assumption that differences are normal. Read the differences themselves; add seeds for a verdict."
        )
    tests = len(others) * len(chosen)
    if tests > 1 and fewest > 1:
        lines.append(f"{tests} tests stand above: by chance alone about {tests * 0.05:.1f} would fall below 0.05.")
    distances = ranked_by(groups)
    if distances is not None:
        lines.append(distances)
    lines.append("Seeds vary weights and batches, not the test classes: see `zoo.evaluate` for intervals over classes.")
    return "\n".join(lines)


def _number(value: float, digits: int = 4) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = Parser("compare", __doc__)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="experiment folders or run folders")
    parser.add_argument("--baseline", help="arm the others are compared with (default: the first)")
    parser.add_argument("--metrics", type=lambda text: text.split(","), help="as in recall@1,map@r (default: all)")
    parser.add_argument("--output", type=pathlib.Path, help="Markdown file to write")
    arguments = parser.parse_args(argv)
    return execute(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        with wrong_call():
            check_output(arguments.output)
    text = report(read_groups(arguments.runs), arguments.metrics, arguments.baseline)
    if arguments.output is not None:
        with written_aside(arguments.output) as aside:
            aside.write_text(text + "\n", encoding="utf-8")
    print(text)
    if arguments.output is not None:
        print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
