"""The surrogate of recall at k, with and without the query among what it is ranked with.

pytorch-metric-learning has none. Agrees with the authors' code (see the loss) on unit vectors of 8 and 16 classes of 4
and of 4 classes of 10, three seeds each: values to 6e-8 of .38 to .54, gradients to 1e-7.
"""

import math

from case_smooth_ap_loss import precedes
from loss_checks import Case, dot, mean, unit

from keras_dml import losses


def recall_at_k(pairs, weights, ks=(1, 2, 4, 8, 16), temperatures=(1, 2, 4, 8, 16), count_query=True):
    terms = []
    for i in pairs.valid:
        query = unit(pairs.x[i])
        cosines = [dot(query, unit(key)) for key in pairs.keys]
        others = pairs.positives[i] + pairs.negatives[i]
        recalls = []
        for k, temperature in zip(ks, temperatures, strict=True):
            found = 0.0
            for p in pairs.positives[i]:
                rank = 1 + sum(precedes(cosines[j], cosines[p]) for j in others if j != p)
                if count_query:
                    rank += precedes(dot(query, query), cosines[p])
                found += 1 / (1 + math.exp(-(k - rank) / temperature))
            recalls.append(min(found, k) / min(k, len(pairs.positives[i])))
        terms.append(1 - mean(recalls))
        pairs.usage[others] += 1
    return mean(terms)


CASES = {
    "recall_at_k_surrogate": Case(losses.RecallAtKSurrogateLoss, recall_at_k, normalized=False),
    "recall_at_k_surrogate, other arguments": Case(
        lambda: losses.RecallAtKSurrogateLoss(ks=(1, 3), recall_temperatures=(0.5, 1.0), count_query=False),
        lambda pairs, weights: recall_at_k(pairs, weights, (1, 3), (0.5, 1.0), count_query=False),
        normalized=False,
    ),
}
