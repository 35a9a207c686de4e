"""A pair scorer on top of an index: what it costs and gains."""

import pathlib
import time
from typing import Any

import numpy as np

from export.gallery import Gallery

QUERIES = 200
NEIGHBORS = 10


def reranking_effect(reranked: pathlib.Path, plain: pathlib.Path, gallery: Gallery) -> dict[str, Any]:
    """Latency of one query with and without the pair scorer, and precision where the gallery has labels.

    Gallery rows are the queries, themselves left out of what they find.

    Args:
        reranked: Folder of the SavedModel with the pair scorer.
        plain: Folder of the same without.
        gallery: The gallery.
    """
    import tensorflow as tf

    rows = np.random.default_rng(0).permutation(len(gallery))[:QUERIES]
    labels = gallery.metadata.get("label")
    effect: dict[str, Any] = {"queries": len(rows)}
    for name, folder in (("without", plain), ("with", reranked)):
        module = tf.saved_model.load(str(folder))
        search = module.signatures["search_embeddings"]
        times, hits, first_hits, found_total = [], 0, 0, 0
        for row in rows:
            query = tf.constant(gallery.embeddings[row : row + 1])
            start = time.perf_counter()
            found = search(embeddings=query, k=tf.constant(NEIGHBORS + 1))["indices"].numpy()[0]
            times.append((time.perf_counter() - start) * 1000)
            found = found[found != row][:NEIGHBORS]
            if labels is not None and len(found):
                equal = labels[found] == labels[row]
                hits += int(equal.sum())
                found_total += len(found)
                first_hits += int(equal[0])
        if len(rows):
            effect[name] = {"p50_ms": round(float(np.percentile(times, 50)), 3)}
            if found_total:
                effect[name] |= {
                    "recall@1": round(first_hits / len(rows), 4),
                    f"precision@{NEIGHBORS}": round(hits / found_total, 4),
                }
    return effect
