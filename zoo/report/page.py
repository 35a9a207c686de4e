"""Puts the page together."""

import html
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dml.data import Benchmark
from keras_dml.evaluation import RetrievalResult
from zoo.evaluate import evaluate, record, title
from zoo.recipe import evaluated_epochs
from zoo.record import changed_settings_of_run
from zoo.report.charts import histogram, line_chart, number
from zoo.report.pictures import Pictures, find_pictures, pixels_uri
from zoo.runs import Embeddings, SavedRun, open_run

HERE = pathlib.Path(__file__).parent
SHOWN_QUERIES, SHOWN_NEIGHBORS = 8, 8
MAP_POINTS = 1200
CLASS_ROWS = 300
MATRIX_CLASSES = 30
CONFUSED_PAIRS = 25
FREQUENCY_ROWS = 128
SAMPLE = 512
# k-means on more than this takes minutes; the run's own metrics are shown instead.
CLUSTERED = 20000


def write_report(
    run: pathlib.Path | str,
    data_dir: pathlib.Path | None = None,
    output: pathlib.Path | None = None,
    projection: str = "tsne",
    seed: int = 0,
) -> pathlib.Path:
    """Writes the page about a run.

    Args:
        run: A run folder, or an experiment folder (its shipped run).
        data_dir: Where the benchmark's images are. Without them the page has no thumbnails.
        output: The file; RUN/report.html by default.
        projection: "tsne" or "pca", for the map.
        seed: Seed of samples and of the map.

    Returns:
        The file written.
    """
    saved = open_run(run)
    queries, gallery = saved.embeddings(), saved.gallery()
    result = evaluate(queries, gallery, saved.ks, keep_neighbors=max(SHOWN_NEIGHBORS, *saved.ks[:1]))
    pictures, benchmark = find_pictures(saved, queries, gallery, data_dir)
    page = _Page(saved, queries, gallery, result, pictures, benchmark, seed)
    sections = [
        ("metrics", "Headline metrics", page.metrics()),
        ("training", "Learning curves", page.training()),
        ("queries", "Best and worst queries", page.best_and_worst()),
        ("map", "Map of the embedding", page.map(projection)),
        ("classes", "Classes", page.classes()),
        ("confusion", "Confusion", page.confusion()),
        ("das", "Densely-anchored sampling", page.das()),
        ("pddm", "PDDM scores", page.pddm()),
        ("recipe", "Recipe", page.recipe()),
    ]
    text = _document(saved.title, [section for section in sections if section[2]])
    output = output or saved.folder / "report.html"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    return output


class _Page:
    """The sections; each returns HTML, empty where the run has nothing for it."""

    def __init__(
        self,
        run: SavedRun,
        queries: Embeddings,
        gallery: Embeddings | None,
        result: RetrievalResult,
        pictures: Pictures,
        benchmark: Benchmark | None,
        seed: int,
    ) -> None:
        self.run = run
        self.queries = queries
        self.gallery = gallery
        self.result = result
        self.pictures = pictures
        self.benchmark = benchmark
        self.random = np.random.default_rng(seed)
        self.seed = seed

    def class_name(self, label: Any, names: Sequence[str] | None = None) -> str:
        names = names or self.queries.class_names
        if names is not None and np.issubdtype(type(label), np.integer) and 0 <= label < len(names):
            return str(names[label])
        return str(label)

    def metrics(self) -> str:
        result = self.result
        numbers = record(result, clustering=len(result.labels) <= CLUSTERED)
        values = numbers["metrics"]
        if "nmi" not in values and "nmi" in self.run.metrics.get("last", {}):
            values["nmi"] = self.run.metrics["last"]["nmi"]
        untrained = self.run.metrics.get("untrained", {})
        # On part of the data a published figure would say nothing.
        subset = self.run.config.get("data", {}).get("subset", False)
        published = {} if subset else self.run.config.get("recipe", {}).get("published", {})
        figures = published.get("metrics", {})
        changed = ", ".join(changed_settings_of_run(self.run.config))
        headline = [*(f"recall@{k}" for k in result.ks), "map@r", "r_precision", "mrr", "nmi", "f1"]
        cards = []
        for name in headline:
            if values.get(name) is None:
                continue
            low, high = numbers["confidence_95"].get(name, (None, None))
            notes = [] if low is None else [f"{low:.1%} to {high:.1%} over classes"]
            if name in figures:
                notes.append(f"published{f', with other {changed}' if changed else ''}: {figures[name]:.1f}%")
            if untrained.get(name) is not None:
                notes.append(f"untrained: {untrained[name]:.1%}")
            small = "".join(f"<small>{_text(note)}</small>" for note in notes)
            cards.append(
                f'<div class="card"><dt>{_text(title(name))}</dt><dd><span class="value">{values[name]:.1%}</span>'
                f"{small}</dd></div>"
            )
        others = [name for name in values if name not in headline]
        rows = "".join(
            f"<tr><td>{_text(title(name))}</td>"
            f"<td>{'not finite' if values[name] is None else number(values[name])}</td></tr>"
            for name in others
        )
        notes = [
            f"{len(result.labels):,} queries of {len(np.unique(result.labels)):,} classes, "
            f"{len(result.gallery_labels):,} images in the gallery, {result.metric} distance. "
            "Ranges are 95 % bootstrap intervals over classes."
        ]
        if result.num_singletons:
            notes.append(f"{result.num_singletons:,} queries have no other image of their class and are left out.")
        if subset:
            notes.append("Measured on part of the data: not comparable with published figures.")
        if changed:
            notes.append(f"Trained with other {changed} than the recipe {self.run.config['name']}.")
        if published:
            notes.append(f"Published figures: {published['source']}.")
        return (
            "".join(f'<p class="note">{_text(note)}</p>' for note in notes)
            + f'<dl class="cards">{"".join(cards)}</dl><details><summary>More numbers</summary>'
            + f'<div class="scroll" tabindex="0"><table><tbody>{rows}</tbody></table></div></details>'
        )

    def training(self) -> str:
        if not self.run.history:
            return ""
        groups: dict[str, dict[str, Any]] = {}
        for name, line in self._by_epoch(self.run.history).items():
            short = name.removeprefix("val_")
            kind = "Recall on held-out classes" if short.startswith("recall@") else title(short)
            groups.setdefault(kind, {})[title(short) if short in ("map@r",) else short] = line
        charts = [
            f"<div><h3>{_text(kind)}</h3>{line_chart(lines, f'{kind} by epoch')}</div>"
            for kind, lines in groups.items()
        ]
        return f'<div class="pair">{"".join(charts)}</div>'

    def _by_epoch(self, history: Mapping[str, Sequence[float]]) -> dict[str, dict[int, float]]:
        """Lines of the history by epoch: of training after each one, of evaluations (`val_`) after some."""
        recipe = self.run.config["recipe"]
        evaluated = evaluated_epochs(recipe["epochs"], recipe["evaluate_every"])
        trained = range(1, recipe["epochs"] + 1)
        return {
            name: dict(zip(evaluated if name.startswith("val_") else trained, line, strict=True))
            for name, line in history.items()
        }

    def best_and_worst(self) -> str:
        result = self.result
        rows = np.flatnonzero(result.evaluated)
        if not len(rows):
            return '<p class="note">No query has another image of its class to find.</p>'
        score = result.per_query["map@r"][rows]
        first = np.where(result.first_match[rows] > 0, result.first_match[rows], result.depth + 1)
        shuffled = self.random.permutation(len(rows))
        worst = shuffled[np.lexsort((-first[shuffled], score[shuffled]))]
        best = shuffled[np.argsort(-score[shuffled], kind="stable")]
        parts = [
            '<p class="note">By average precision at R; at most two queries of a class. A solid frame with a tick is '
            "the right class, a dashed one with a cross a wrong one.</p>"
        ]
        if self.pictures.problem:
            parts.append(f'<p class="note">No thumbnails: {_text(self.pictures.problem)}.</p>')
        for heading, order in (("Worst queries", worst), ("Best queries", best)):
            chosen = self._spread_over_classes(rows[order])
            lines = "".join(self._query_row(row) for row in chosen)
            parts.append(f'<h3>{heading}</h3><div class="scroll" tabindex="0" aria-label="{heading}">{lines}</div>')
        return "".join(parts)

    def _spread_over_classes(self, rows: np.ndarray) -> list[int]:
        taken: dict[Any, int] = {}
        chosen: list[int] = []
        for row in rows:
            label = self.result.labels[row]
            if taken.get(label, 0) < 2:
                taken[label] = taken.get(label, 0) + 1
                chosen.append(int(row))
            if len(chosen) == SHOWN_QUERIES:
                break
        return chosen

    def _query_row(self, row: int) -> str:
        result = self.result
        name = self.class_name(result.labels[row])
        tiles = [self._tile(row, False, "query", name, "Query")]
        names = self.gallery.class_names if self.gallery is not None else self.queries.class_names
        for column in result.neighbors[row, :SHOWN_NEIGHBORS]:
            if column >= 0:
                right = result.gallery_labels[column] == result.labels[row]
                found = self.class_name(result.gallery_labels[column], names)
                kind, mark = ("right", "✓") if right else ("wrong", "✗")
                tiles.append(self._tile(int(column), True, kind, found, mark))
        return f'<div class="row">{"".join(tiles)}</div>'

    def _tile(self, row: int, gallery: bool, kind: str, name: str, mark: str) -> str:
        uri = self.pictures.thumbnail(row, gallery)
        words = {"✓": "right", "✗": "wrong"}.get(mark, "query")
        picture = f'<img src="{uri}" alt="{_text(name)}" loading="lazy">' if uri else _text(name[:12])
        return (
            f'<figure class="tile {kind}"><div class="frame">{picture}</div>'
            f'<figcaption title="{_text(name)}"><b aria-label="{words}">{mark}</b> {_text(name)}</figcaption></figure>'
        )

    def map(self, projection: str) -> str:
        vectors, labels = self.queries.vectors, self.result.labels
        rows = np.sort(self.random.permutation(len(labels))[:MAP_POINTS])
        points, method = _project(np.asarray(vectors[rows], np.float32), projection, self.seed)
        if points is None:
            return ""
        low, high = points.min(axis=0), points.max(axis=0)
        span = np.where(high > low, high - low, 1.0)
        places = 20 + (points - low) / span * np.array([760, 480])
        known, codes = np.unique(labels, return_inverse=True)
        sprite = self.pictures.sprite(rows)
        circles = "".join(
            f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4" fill="{_color(codes[row], len(known))}" '
            f'data-label="{_text(self._label(row))}"/>'
            for row, (x, y) in zip(rows, places, strict=True)
        )
        sheet = f'<img id="map-sheet" src="{sprite[0]}" alt="" hidden>' if sprite is not None else ""
        columns = sprite[1] if sprite is not None else 1
        what = (
            f"{len(rows):,} of {len(labels):,} test images"
            if len(rows) < len(labels)
            else f"all {len(rows):,} test images"
        )
        return (
            f'<p class="note">{_text(what)}, {method} of the embeddings; colours are classes. Point at it, or focus '
            "it and use the arrow keys, to see an image.</p>"
            f'<div class="map" data-sheet="{"map-sheet" if sprite is not None else ""}" data-columns="{columns}">'
            f'<svg viewBox="0 0 800 520" tabindex="0" role="application" '
            f'aria-label="Map of the embedding, {_text(what)}. '
            f'Arrow keys move from image to image.">{circles}</svg><div class="tip"></div>'
            f'<p class="live note" aria-live="polite"></p>{sheet}</div>'
        )

    def _label(self, row: int) -> str:
        name = self.class_name(self.result.labels[row])
        return name if self.queries.ids is None else f"{name} · {pathlib.PurePath(self.queries.ids[row]).name}"

    def classes(self) -> str:
        table = self.result.per_class()
        wrong = _taken_for(self.result)
        order = np.argsort(np.nan_to_num(table["map@r"], nan=2.0), kind="stable")
        note = "Click a heading to sort."
        if len(order) > CLASS_ROWS:
            order = np.concatenate([order[: CLASS_ROWS // 2], order[-CLASS_ROWS // 2 :]])
            note += f" The {CLASS_ROWS // 2} worst and best of {len(table['class']):,} classes by MAP@R."
        columns = [
            name for name in (f"recall@{self.result.ks[0]}" if self.result.ks else "", "map@r", "r_precision") if name
        ]
        heads = ["Class", "Images", *map(title, columns), "Most often taken for"]
        head = "".join(f'<th scope="col"><button type="button">{_text(text)}</button></th>' for text in heads)
        rows = []
        for index in order:
            label = table["class"][index]
            cells = "".join(
                f'<td data-value="{-1 if math.isnan(table[name][index]) else table[name][index]:.6f}">'
                f"{'-' if math.isnan(table[name][index]) else f'{table[name][index]:.1%}'}</td>"
                for name in columns
            )
            other, count = wrong.get(label, (None, 0))
            taken = "" if other is None else f"{_text(self._gallery_class(other))} ({count})"
            rows.append(
                f"<tr><td>{_text(self.class_name(label))}</td><td>{table['queries'][index]}</td>{cells}"
                f'<td class="text">{taken}</td></tr>'
            )
        return (
            f'<p class="note">{_text(note)}</p><div class="scroll tall" tabindex="0" aria-label="Table of classes">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        )

    def _gallery_class(self, label: Any) -> str:
        return self.class_name(label, self.gallery.class_names if self.gallery is not None else None)

    def confusion(self) -> str:
        result = self.result
        nearest = result.neighbors[:, 0]
        known = np.flatnonzero((nearest >= 0) & result.evaluated)
        if not len(known):
            return ""
        own, found = result.labels[known], result.gallery_labels[nearest[known]]
        classes = np.unique(np.concatenate([own, found]))
        intro = "What the nearest neighbour of each query is: its class in the row, the neighbour's in the column."
        if len(classes) <= MATRIX_CLASSES:
            counts: np.ndarray = np.zeros((len(classes), len(classes)), int)
            np.add.at(counts, (np.searchsorted(classes, own), np.searchsorted(classes, found)), 1)
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            head = "".join(f'<th scope="col">{_text(self._gallery_class(label)[:14])}</th>' for label in classes)
            body = "".join(
                f'<tr><th scope="row">{_text(self.class_name(label)[:24])}</th>'
                + "".join(
                    f'<td style="background:color-mix(in srgb, var(--{"right" if i == j else "wrong"}) '
                    f'{8 + 92 * shares[i, j] if counts[i, j] else 0:.0f}%, transparent)">{counts[i, j] or ""}</td>'
                    for j in range(len(classes))
                )
                + "</tr>"
                for i, label in enumerate(classes)
            )
            return (
                f'<p class="note">{intro}</p><div class="scroll" tabindex="0" aria-label="Confusion matrix">'
                f'<table class="heat"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>'
            )
        pairs: dict[tuple[Any, Any], int] = {}
        for a, b in zip(own.tolist(), found.tolist(), strict=True):
            if a != b:
                pairs[a, b] = pairs.get((a, b), 0) + 1
        sizes = dict(zip(*(part.tolist() for part in np.unique(own, return_counts=True)), strict=True))
        most = sorted(pairs.items(), key=lambda item: -item[1])[:CONFUSED_PAIRS]
        rows = "".join(
            f"<tr><td>{_text(self.class_name(np.asarray(a)[()]))}</td>"
            f'<td class="text">{_text(self._gallery_class(np.asarray(b)[()]))}</td>'
            f"<td>{count}</td><td>{count / sizes[a]:.0%}</td></tr>"
            for (a, b), count in most
        )
        return (
            f'<p class="note">The {len(most)} most frequent of {len(pairs):,} pairs of a class and the wrong class '
            'of the nearest neighbour.</p><div class="scroll" tabindex="0" aria-label="Confused classes">'
            "<table><thead><tr><th>Class</th>"
            f"<th>Taken for</th><th>Queries</th><th>Of the class</th></tr></thead><tbody>{rows}</tbody></table></div>"
        )

    def das(self) -> str:
        path = self.run.folder / "das_state.npz"
        if not path.is_file():
            return ""
        with np.load(path, allow_pickle=False) as saved:
            counts, bank = saved["frequency_recorder_matrix"], saved["transformation_bank"]
            fill = saved["bank_fill"]
        settings = self.run.config.get("recipe", {}).get("das") or {}
        shift, top = float(settings.get("shift_scale", 0.01)), int(settings.get("top_k", 4))
        rows = np.sort(self.random.permutation(len(counts))[:FREQUENCY_ROWS])
        chosen = counts[rows].astype(float)
        shares = chosen / np.maximum(chosen.max(axis=1, keepdims=True), 1)
        filled = np.arange(bank.shape[1]) < fill[:, None]
        lengths = shift * np.linalg.norm(bank[filled], axis=1)
        if len(lengths) > 20000:
            lengths = self.random.choice(lengths, 20000, replace=False)
        concentration = np.sort(counts, axis=1)[:, ::-1][:, :top].sum() / max(counts.sum(), 1)
        parts = [
            f"<p>Frequency recorder matrix: how often each of the {counts.shape[1]} channels (across) was among the "
            f"{top} largest of an embedding of each training class (down; {len(rows)} of {len(counts):,}). The {top} "
            f"most frequent channels of a class hold {concentration:.0%} of its counts.</p>"
            f'<img class="frm" src="{pixels_uri(shares)}" alt="Frequency recorder matrix, one row per class, '
            f'darker is more frequent" style="height:{max(80, min(4 * len(rows), 400))}px">'
            f'<p class="note">Transformation bank: {int(fill.sum()):,} of {filled.size:,} places filled, '
            f"{np.count_nonzero(fill == 0):,} classes without any.</p>"
        ]
        groups: dict[str, Any] = {"shift alone, r_b |t|": lengths}
        produced = self._produced(counts, bank, fill, settings)
        note = "Distance between an anchor and what is produced around it."
        if produced is not None:
            made, nearest = produced
            groups["produced embedding, |v' - v|"] = made
            note += (
                f" Measured on {len(made)} training images embedded by the "
                "finished encoder; the nearest other image of the "
                f"sample lies at {number(nearest)} on average."
            )
        else:
            note += " Only the shift is known from the saved state; the whole distance needs the training images."
        parts.append(f'<p class="note">{_text(note)}</p>' + histogram(groups, "Distances from anchors", "distance"))
        distance = {name: line for name, line in self.run.history.items() if "produced" in name or "share" in name}
        if distance:
            parts.append(line_chart(self._by_epoch(distance), "Statistics of produced embeddings by epoch"))
        return "".join(parts)

    def _produced(
        self, counts: np.ndarray, bank: np.ndarray, fill: np.ndarray, settings: dict[str, Any]
    ) -> tuple[np.ndarray, float] | None:
        """Distances of produced embeddings from their anchors, and the mean distance of an anchor to the next."""
        encoder_path = self.run.folder / "encoder.keras"
        if self.benchmark is None or not encoder_path.is_file() or self.benchmark.train.num_classes != len(counts):
            return None
        from keras_dml.data import ImagePreprocessing
        from keras_dml.image_encoder import ImageEncoder, load_keras_model

        train = self.benchmark.train
        rows = np.sort(self.random.permutation(len(train))[:SAMPLE])
        inputs = ImagePreprocessing.from_config(self.run.config["preprocessing"])
        encoder = ImageEncoder(load_keras_model(encoder_path), inputs)
        vectors: np.ndarray = encoder.embed(train.subset(rows, renumber=False)).astype(np.float64)
        labels = train.labels[rows]
        low, high = settings.get("scale_range", (0.99, 1.01))
        order = np.argsort(-counts[labels], axis=1, kind="stable")[:, : int(settings.get("top_k", 4))]
        scale = np.ones_like(vectors)
        np.put_along_axis(scale, order, self.random.uniform(low, high, order.shape), 1)
        place = (self.random.random(len(rows)) * fill[labels]).astype(int)
        moved = np.where(fill[labels, None] > 0, bank[labels, place], 0.0)
        made = scale * vectors + float(settings.get("shift_scale", 0.01)) * moved
        if settings.get("normalize", True):
            made /= np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)
        from keras_dml.evaluation import nearest_neighbors

        nearest = (
            nearest_neighbors(vectors, k=1, metric="euclidean")[1][:, 0] if len(vectors) > 1 else np.array([np.nan])
        )
        return np.linalg.norm(made - vectors, axis=1), float(np.mean(nearest))

    def pddm(self) -> str:
        path = self.run.folder / "similarity.keras"
        if not path.is_file():
            return ""
        unit = _similarity_unit(path)
        if unit is None:
            return '<p class="note">similarity.keras holds no unit with pairwise scores.</p>'
        rows = self._paired_sample()
        labels = self.result.labels[rows]
        scores = np.asarray(unit.pairwise(np.asarray(self.queries.vectors[rows], np.float32)), np.float64)
        above = np.triu(np.ones_like(scores, bool), 1)
        same = labels[:, None] == labels[None, :]
        positive, negative = scores[above & same], scores[above & ~same]
        if not len(positive) or not len(negative):
            return '<p class="note">The sample holds only one kind of pair.</p>'
        # The share of positive-negative pairs in the right order (area under the ROC curve), by ranks.
        from scipy.stats import rankdata

        ranks = rankdata(np.concatenate([positive, negative]))
        area = (ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2) / (
            len(positive) * len(negative)
        )
        limit = 20000
        groups = {
            "same class": self.random.choice(positive, min(limit, len(positive)), replace=False),
            "different classes": self.random.choice(negative, min(limit, len(negative)), replace=False),
        }
        return (
            f"<p>Scores of pairs of {len(rows)} test images: a pair of one class scores above a pair of two in "
            f"{area:.1%} of cases.</p>" + histogram(groups, "PDDM scores of positive and negative pairs", "score S")
        )

    def _paired_sample(self) -> np.ndarray:
        """Rows of a few hundred test images, whole classes, so that there are positive pairs."""
        labels = self.result.labels
        chosen: list[np.ndarray] = []
        for label in self.random.permutation(np.unique(labels)):
            members = np.flatnonzero(labels == label)
            chosen.append(self.random.permutation(members)[: SAMPLE // 8])
            if sum(map(len, chosen)) >= SAMPLE:
                break
        return np.concatenate(chosen)

    def recipe(self) -> str:
        text = json.dumps(self.run.config, indent=2, ensure_ascii=False)
        return f'<details><summary>run.json</summary><pre tabindex="0">{_text(text)}</pre></details>'


def _document(name: str, sections: Sequence[tuple[str, str, str]]) -> str:
    style, script = ((HERE / file).read_text(encoding="utf-8") for file in ("page.css", "page.js"))
    links = "".join(f'<li><a href="#{key}">{_text(heading)}</a></li>' for key, heading, _ in sections)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-heading"><h2 id="{key}-heading">{_text(heading)}</h2>'
        f"{content}</section>"
        for key, heading, content in sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Nothing is loaded from anywhere: the browser itself refuses to.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        f'<link rel="icon" href="data:,"><title>{_text(name)}</title><style>{style}</style></head><body>'
        f'<a class="skip" href="#content">Skip to the content</a><header><h1>{_text(name)}</h1>'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header><main id="content">{body}</main>'
        f"<footer>Made by zoo.report. Everything is in this one file.</footer>"
        f"<script>{script}</script></body></html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _taken_for(result: RetrievalResult) -> dict[Any, tuple[Any, int]]:
    """Class -> the wrong class that its queries' nearest neighbours most often have, and how often."""
    nearest = result.neighbors[:, 0]
    rows = np.flatnonzero((nearest >= 0) & result.evaluated)
    rows = rows[result.gallery_labels[nearest[rows]] != result.labels[rows]]
    if not len(rows):
        return {}
    pairs = np.stack([result.labels[rows], result.gallery_labels[nearest[rows]]], axis=1)
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    most: dict[Any, tuple[Any, int]] = {}
    for (own, other), count in zip(unique, counts, strict=True):
        if count > most.get(own, (None, 0))[1]:
            most[own] = (other, int(count))
    return most


def _project(vectors: np.ndarray, projection: str, seed: int) -> tuple[np.ndarray | None, str]:
    """`(n, 2)` positions, and the name of the method."""
    if len(vectors) < 3:
        return None, ""
    centered = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centered.astype(np.float64), full_matrices=False)
    plane = centered @ directions[:2].T
    if plane.shape[1] < 2:
        plane = np.concatenate([plane, np.zeros((len(plane), 2 - plane.shape[1]))], axis=1)
    if projection == "tsne" and len(vectors) >= 20 and centered.std() > 0:
        from sklearn.manifold import TSNE

        start = plane / max(plane[:, 0].std(), 1e-12) * 1e-4
        model = TSNE(perplexity=min(30, len(vectors) / 4), init=start, random_state=seed, learning_rate="auto")
        return model.fit_transform(centered), "t-SNE"
    return plane, "first two principal components"


def _color(code: int, total: int) -> str:
    """Well separated hues, the same in light and in the dark."""
    hue = code * 360 / total if total <= 12 else code * 137.508 % 360
    return f"hsl({hue:.0f} 65% {(50, 42, 60)[code % 3] if total > 12 else 50}%)"


def _similarity_unit(path: pathlib.Path) -> Any:
    import keras

    from keras_dml import layers  # noqa: F401  registers PDDMUnit

    loaded = keras.saving.load_model(path, compile=False)
    candidates = [loaded, *getattr(loaded, "layers", [])]
    return next((one for one in candidates if hasattr(one, "pairwise")), None)
