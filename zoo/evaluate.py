"""Retrieval and clustering metrics of a saved run, of any embeddings, or of an encoder as it is.

    keras-dml evaluate runs/digits                                 the exported run of an experiment
    keras-dml evaluate runs/digits/das/seed-1                      one run
    keras-dml evaluate embeddings.npz --gallery gallery.npz        arrays `embeddings` (n, d) and `labels` (n,)
    keras-dml evaluate encoder.keras --benchmark cub200 --data-dir ~/data     without training

Prints a table and writes the numbers as JSON beside what was evaluated (`--output` for another place).
"""

import argparse
import math
import pathlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_dml.typing import METRICS
from keras_dml.utils.command import Parser, WrongCallError, add_data_arguments, execute, positive, run, wrong_call
from keras_dml.utils.files import check_output, write_json
from keras_dml.utils.progress import SILENT, Progress, TerminalProgress
from zoo.runs import Embeddings, open_run, read_embeddings
from zoo.runs.layout import EVALUATION_SUFFIX
from zoo.tables import markdown
from zoo.titles import title

if TYPE_CHECKING:
    from keras_dml.data import Benchmark, Split
    from keras_dml.evaluation import RetrievalResult


def evaluate(
    queries: Embeddings,
    gallery: Embeddings | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    metric: str = "cosine",
    clusters: int | None = None,
    seed: int = 0,
    keep_neighbors: int | None = None,
) -> "RetrievalResult":
    """Evaluates saved embeddings; a query is kept out of its own ranking by id where both sides have ids.

    Warns of embeddings that are zero.

    Raises:
        ValueError: Queries and gallery do not fit each other, or nothing can be measured on them.
    """
    from keras_dml.evaluation import RetrievalOptions, evaluate_retrieval

    shared = gallery is not None and queries.ids is not None and gallery.ids is not None
    options = RetrievalOptions(
        ids=queries.ids if gallery is None or shared else None,
        gallery_ids=gallery.ids if shared and gallery is not None else None,
        metric=metric,
        clusters=clusters,
        seed=seed,
        keep_neighbors=keep_neighbors,
    )
    searched = (None, None) if gallery is None else (gallery.vectors, gallery.labels)
    result = evaluate_retrieval(queries.vectors, queries.labels, *searched, ks=ks, options=options)
    if not result.relevant.any():
        where = "among the embeddings" if gallery is None else "in the gallery"
        raise ValueError(
            f"No query has another item of its class {where}, so there is nothing to find: {len(result.labels)} "
            f"queries of {len(set(queries.labels.tolist()))} classes. Are the "
            "labels those of the classes, or of the images?"
        )
    for name, side in (("query", queries), ("gallery", gallery)):
        zeros = 0 if side is None else int((~side.vectors.any(axis=1)).sum())
        if side is not None and zeros == len(side.vectors):
            raise ValueError(
                f"All {zeros} {name} embeddings are zero: the encoder has collapsed, or they were never filled in"
            )
        if zeros:
            warnings.warn(
                f"{zeros} of {len(side.vectors)} {name} embeddings are zero and have no direction; they are "  # type: ignore[union-attr]
                "ranked all the same, by their order in the file",
                stacklevel=2,
            )
    return result


def record(result: "RetrievalResult", clustering: bool = True) -> dict[str, Any]:
    """All numbers of an evaluation, ready for JSON; what is not finite becomes null."""
    values = result.to_dict(clustering=clustering, geometry=True)
    intervals = {name: result.confidence_interval(name) for name in result.metric_names()}
    return {
        "queries": len(result.labels),
        "gallery": len(result.gallery_labels),
        "singletons": result.num_singletons,
        "metric": result.metric,
        "depth": result.depth,
        "metrics": {name: _finite(value) for name, value in values.items()},
        "confidence_95": {name: [_finite(end) for end in ends] for name, ends in intervals.items()},
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def table(values: dict[str, Any]) -> str:
    """A record as a Markdown table with 95 % intervals, bootstrapped over classes."""
    rows = [("", "", "95 % interval")]
    for name, value in values["metrics"].items():
        low, high = values["confidence_95"].get(name, (None, None))
        interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
        rows.append((title(name), "not finite" if value is None else f"{value:.4f}", interval))
    notes = [f"{values['queries']} queries, {values['gallery']} in the gallery, {values['metric']} distance."]
    if values["singletons"]:
        notes.append(
            f"{values['singletons']} queries have no other item of their class to find and are left out of the means."
        )
    return "\n".join([markdown(rows), "", *notes])


def embed(
    encoder_path: pathlib.Path,
    benchmark: "Benchmark",
    resize: int | None = None,
    batch_size: int = 64,
    progress: Progress = SILENT,
) -> tuple[Embeddings, Embeddings | None]:
    """Test embeddings, and gallery embeddings where the benchmark has a gallery, of a saved encoder.

    Args:
        encoder_path: The encoder, as Keras saves it.
        benchmark: Whose test images, and gallery, are embedded.
        resize: Short side before the center crop, in pixels; the encoder's input size by default.
        batch_size: Images embedded at a time.
        progress: Is told how many images are done.
    """
    from keras_dml.data import ImagePreprocessing
    from keras_dml.image_encoder import ImageEncoder, load_keras_model

    model = load_keras_model(encoder_path)
    _, height, width, channels = model.input_shape
    if height is None or height != width:
        raise ValueError(
            f"The encoder must take square images of a fixed size. Received: input shape {model.input_shape}"
        )
    encoder = ImageEncoder(model, ImagePreprocessing(height, resize, channels))

    def side(split: "Split") -> Embeddings:
        return Embeddings(encoder.embed(split, batch_size, progress), split.labels, split.ids, split.class_names)

    return side(benchmark.test), None if benchmark.gallery is None else side(benchmark.gallery)


class _Asked(NamedTuple):
    ks: tuple[int, ...]
    metric: str


def _read(
    arguments: argparse.Namespace,
) -> tuple[Embeddings, Embeddings | None, "_Asked", pathlib.Path, dict[str, Any]]:
    """Queries, gallery, what is asked for, where the record goes, and what it says was evaluated."""
    from keras_dml.evaluation import chosen_metric

    target, gallery, metric = arguments.target, None, "cosine"
    ks: tuple[int, ...] = (1, 2, 4, 8)
    source: dict[str, Any] = {}
    if arguments.gallery is not None:
        gallery = read_embeddings(arguments.gallery)
    if target.suffix == ".npz":
        queries, output = read_embeddings(target), target.with_suffix(EVALUATION_SUFFIX)
    elif target.suffix == ".keras":
        if arguments.benchmark is None:
            raise WrongCallError("An encoder needs images to embed: give --benchmark NAME (and --data-dir)")
        from keras_dml import data

        benchmark = data.load(arguments.benchmark, arguments.data_dir, arguments.subset, arguments.bad_images)
        queries, embedded = embed(target, benchmark, arguments.resize, arguments.batch_size, TerminalProgress())
        source = {"benchmark": arguments.benchmark, "data": benchmark.identity}
        gallery = gallery or embedded
        metric = chosen_metric(None, queries.vectors)
        output = target.with_suffix(f".{arguments.benchmark}{EVALUATION_SUFFIX}")
    else:
        run = open_run(target)
        ks, output, metric = run.ks, run.files.evaluation, run.metric
        queries, gallery = run.embeddings(), gallery or run.gallery()
        source = {name: run.config.get(name) for name in ("name", "arm", "seed", "benchmark", "data")}
    if arguments.gallery is not None:
        source["gallery"] = arguments.gallery.name
    asked = _Asked(arguments.ks or ks, arguments.metric or metric)
    return queries, gallery, asked, arguments.output or output, {"file": target.name, **source}


def _ranks(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split(","))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = Parser("evaluate", __doc__)
    parser.add_argument("target", type=pathlib.Path, help="run folder, experiment folder, .npz or .keras")
    parser.add_argument("--gallery", type=pathlib.Path, help=".npz of a gallery of its own")
    parser.add_argument("--benchmark", help="test images for a .keras encoder")
    add_data_arguments(parser)
    parser.add_argument("--resize", type=int, help="short side before the center crop, for a .keras encoder")
    parser.add_argument("--batch-size", type=positive, default=64, help="images per forward pass (default: 64)")
    parser.add_argument("--ks", type=_ranks, help="ranks, as in 1,10,100 (default: the recipe's, or 1,2,4,8)")
    parser.add_argument(
        "--metric",
        choices=METRICS,
        help="default: the run's; cosine for an .npz; for a .keras encoder cosine if its embeddings have unit length",
    )
    parser.add_argument(
        "--clusters", type=positive, help="k-means clusters (default: test classes; the DAS authors: training classes)"
    )
    parser.add_argument("--no-clustering", action="store_true", help="skip k-means, which is slow on large sets")
    parser.add_argument("--seed", type=int, default=0, help="seed of k-means")
    parser.add_argument("--output", type=pathlib.Path, help="where the JSON goes")
    arguments = parser.parse_args(argv)
    return execute(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        with wrong_call():
            check_output(arguments.output)
    queries, gallery, asked, output, source = _read(arguments)
    check_output(output)
    if arguments.clusters is not None and arguments.clusters > len(queries.vectors):
        raise WrongCallError(
            f"--clusters {arguments.clusters} are more than the {len(queries.vectors)} items that are to be clustered"
        )
    result = evaluate(queries, gallery, asked.ks, asked.metric, arguments.clusters, arguments.seed)
    values = {"source": source, **record(result, clustering=not arguments.no_clustering)}
    write_json(output, values)
    print(table(values))
    print(f"\nWritten to {output}")


if __name__ == "__main__":
    run(main)
