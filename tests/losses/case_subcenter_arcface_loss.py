"""Sub-center ArcFace.

Agrees with pytorch-metric-learning 2.9.0 (`benchmarks/losses.py --compare`, five seeds):
values to 4e-6 of 50, gradients to 2e-7.
"""

import math

from loss_checks import Case, cosines_with_proxies, cross_entropy

from keras_dml import losses


def subcenter_arcface(pairs, weights):
    logits = []
    for row, y in zip(cosines_with_proxies(pairs, weights), pairs.labels, strict=True):
        nearest = [max(row[3 * c], row[3 * c + 1], row[3 * c + 2]) for c in range(4)]
        theta = math.acos(min(nearest[y], 1.0))
        widened = math.cos(theta + 0.5) if theta + 0.5 < math.pi else nearest[y] - 0.5 * math.sin(0.5)
        logits.append([64 * (widened if c == y else v) for c, v in enumerate(nearest)])
    return cross_entropy(logits, pairs.labels)


CASES = {"subcenter_arcface": Case(lambda: losses.SubCenterArcFaceLoss(4, seed=1), subcenter_arcface, proxies=True)}
