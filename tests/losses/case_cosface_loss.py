"""CosFace.

Agrees with pytorch-metric-learning 2.9.0 (`benchmarks/losses.py --compare`, five seeds):
values to 4e-6 of 49, gradients to 2e-7.
"""

from loss_checks import Case, cosines_with_proxies, cross_entropy

from keras_dml import losses


def cosface(pairs, weights):
    logits = [
        [64 * (v - 0.35 if c == y else v) for c, v in enumerate(row)]
        for row, y in zip(cosines_with_proxies(pairs, weights), pairs.labels, strict=True)
    ]
    return cross_entropy(logits, pairs.labels)


CASES = {"cosface": Case(lambda: losses.CosFaceLoss(4, seed=1), cosface, proxies=True)}
