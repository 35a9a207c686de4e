"""Smooth-AP, with and without the query among what it is ranked with.

Agrees with pytorch-metric-learning 2.9.0 (`benchmarks/losses.py --compare`, five seeds): values to 2e-8 of .22,
gradients to 3e-8. Its formula holds only where a batch has as many images of a class as classes, as there.
"""

import math

from loss_checks import Case, dot, mean, unit

from keras_dml import losses


def precedes(a, b):
    """How far a similarity `a` comes before `b`."""
    return 1 / (1 + math.exp(min((b - a) / 0.01, 700)))


def smooth_ap(pairs, weights, count_query=True):
    terms = []
    for i in pairs.valid:
        query = unit(pairs.x[i])
        cosines = [dot(query, unit(key)) for key in pairs.keys]
        positives, negatives = [cosines[p] for p in pairs.positives[i]], [cosines[n] for n in pairs.negatives[i]]
        if count_query:
            positives.append(dot(query, query))
        precisions = []
        for place, score in enumerate(positives):
            before = sum(precedes(other, score) for k, other in enumerate(positives) if k != place)
            precisions.append((1 + before) / (1 + before + sum(precedes(other, score) for other in negatives)))
        terms.append(1 - mean(precisions))
        pairs.usage[pairs.positives[i] + pairs.negatives[i]] += 1
    return mean(terms)


CASES = {
    "smooth_ap": Case(losses.SmoothAPLoss, smooth_ap, normalized=False),
    "smooth_ap without query": Case(
        lambda: losses.SmoothAPLoss(count_query=False),
        lambda pairs, weights: smooth_ap(pairs, weights, count_query=False),
        normalized=False,
    ),
}
