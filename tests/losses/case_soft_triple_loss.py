"""SoftTriple.

Agrees with pytorch-metric-learning 2.9.0 (`benchmarks/losses.py --compare`, five seeds), with its
SparseCentersRegularizer: values to 1e-6 of 4.6, gradients to 1e-7.
"""

import math

from loss_checks import Case, cosines_with_proxies, cross_entropy, dot, unit

from keras_dml import losses

CENTERS = 3


def soft_triple(pairs, weights):
    logits = []
    for row, y in zip(cosines_with_proxies(pairs, weights), pairs.labels, strict=True):
        logits.append([])
        for c in range(4):
            own = row[c * CENTERS : (c + 1) * CENTERS]
            total = sum(math.exp(v / 0.1) for v in own)
            similarity = sum(math.exp(v / 0.1) / total * v for v in own)
            logits[-1].append(20 * (similarity - (0.01 if c == y else 0.0)))
    spread = 0.0
    for c in range(4):
        own = [unit(w) for w in weights["proxies"][c * CENTERS : (c + 1) * CENTERS]]
        for t in range(CENTERS):
            for s in range(t):
                spread += math.sqrt(2 + 1e-5 - 2 * dot(own[s], own[t]))
    return cross_entropy(logits, pairs.labels) + 0.2 * spread / (4 * CENTERS * (CENTERS - 1))


CASES = {"soft_triple": Case(lambda: losses.SoftTripleLoss(4, CENTERS, seed=1), soft_triple, proxies=True)}
