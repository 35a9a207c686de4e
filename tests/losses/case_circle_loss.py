"""Circle loss.

Agrees with pytorch-metric-learning 2.9.0 (`benchmarks/losses.py --compare`, five seeds):
values to 4e-6 of 52, gradients to 1e-6.
"""

import math

from loss_checks import Case, dot, mean, unit

from keras_dml import losses


def circle(pairs, weights):
    terms = []
    for i in pairs.valid:
        cosines = [dot(unit(pairs.x[i]), unit(key)) for key in pairs.keys]
        push = pull = 0.0
        # No gradient flows through the weights of pairs: they stay what they are at the points it is taken at.
        for n in pairs.negatives[i]:
            weight = weights.setdefault(("negative", i, n), max(cosines[n] + 0.4, 0.0))
            push += math.exp(80 * weight * (cosines[n] - 0.4))
            pairs.usage[n] += weight > 0
        for p in pairs.positives[i]:
            weight = weights.setdefault(("positive", i, p), max(1 + 0.4 - cosines[p], 0.0))
            pull += math.exp(-80 * weight * (cosines[p] - (1 - 0.4)))
            pairs.usage[p] += weight > 0
        terms.append(math.log(1 + push * pull))
    return mean(terms)


CASES = {"circle": Case(losses.CircleLoss, circle, normalized=False)}
