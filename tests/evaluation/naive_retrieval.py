"""Retrieval metrics by plain loops in exact or float64 arithmetic, from the definitions."""

import math


def ranking(query, gallery, banned, metric="euclidean"):
    """Gallery rows by distance to one query, then by row, without the banned rows."""

    def unit(v):
        v = [float(x) for x in v]
        if metric == "euclidean":
            return v
        norm = math.sqrt(math.fsum(x * x for x in v))
        return [x / norm for x in v] if norm else v

    q = unit(query)
    scored = []
    for row, item in enumerate(gallery):
        if row not in banned:
            distance = math.fsum((a - b) ** 2 for a, b in zip(q, unit(item), strict=True))
            # Eleven digits, so that what ties on paper ties here.
            scored.append((0.0 if distance < 1e-28 and metric == "cosine" else float(f"{distance:.11g}"), row))
    return [row for _, row in sorted(scored)]


def metrics(embeddings, labels, gallery=None, gallery_labels=None, ids=None, gallery_ids=None, ks=(1,), **options):
    """Means over the queries that have something to find, and the number of those that have not."""
    if gallery is None:
        gallery, gallery_labels = embeddings, labels
        ids = list(range(len(labels))) if ids is None else ids
        gallery_ids = ids
    values, lone = {}, 0
    for q, label in enumerate(labels):
        banned = set() if ids is None else {g for g in range(len(gallery)) if gallery_ids[g] == ids[q]}
        order = ranking(embeddings[q], gallery, banned, **options)
        right = [gallery_labels[g] == label for g in order]
        total = sum(right)
        if total == 0:
            lone += 1
            continue
        one = {}
        for k in ks:
            one[f"recall@{k}"] = float(any(right[:k]))
            one[f"precision@{k}"] = sum(right[:k]) / k
        one["r_precision"] = sum(right[:total]) / total
        precisions = [sum(right[: i + 1]) / (i + 1) if right[i] else 0.0 for i in range(len(right))]
        one["map@r"] = sum(precisions[:total]) / total
        one["map@1000"] = sum(precisions[:1000]) / total
        size = sum(gallery_label == label for gallery_label in gallery_labels)
        one["map@1000_reference"] = sum(precisions[:1000]) / size
        one["mrr"] = 1 / (right.index(True) + 1)
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: sum(v) / len(v) for name, v in values.items()}, lone
