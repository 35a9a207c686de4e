"""Losses whose sums inside a logarithm are weighted: each term of a sum is added as often as its weight says."""

import math

from loss_checks import Case, distance, dot, mean, norm, unit

from keras_dml import losses

POSITIVE, NEGATIVE = 3, 2


def multi_similarity(pairs, weights):
    terms = []
    for i in pairs.valid:
        scores = [dot(pairs.x[i], key) for key in pairs.keys]
        positives = [p for p in pairs.positives[i] if scores[p] - 0.1 < max(scores[n] for n in pairs.negatives[i])]
        negatives = [n for n in pairs.negatives[i] if scores[n] + 0.1 > min(scores[p] for p in pairs.positives[i])]
        if not positives or not negatives:
            continue
        pull = math.log(1 + sum(math.exp(-2.0 * (scores[p] - 0.5)) for p in POSITIVE * positives)) / 2.0
        push = math.log(1 + sum(math.exp(40.0 * (scores[n] - 0.5)) for n in NEGATIVE * negatives)) / 40.0
        terms.append(pull + push)
        pairs.usage[positives + negatives] += 1
    return mean(terms)


def sup_con(pairs, weights):
    terms = []
    for i in range(len(pairs.x)):
        if not pairs.positives[i]:
            continue
        scores = [dot(pairs.x[i], key) / 0.1 for key in pairs.keys]
        total = sum(math.exp(scores[k]) for k in POSITIVE * pairs.positives[i] + NEGATIVE * pairs.negatives[i])
        terms.append(math.log(total) - mean(scores[p] for p in pairs.positives[i]))
        pairs.usage[pairs.positives[i] + pairs.negatives[i]] += 1
    return mean(terms)


def generalized_lifted_structure(pairs, weights):
    terms = []
    for i in pairs.valid:
        pull = sum(math.exp(distance(pairs.x[i], pairs.keys[p])) for p in POSITIVE * pairs.positives[i])
        push = sum(math.exp(1.0 - distance(pairs.x[i], pairs.keys[n])) for n in NEGATIVE * pairs.negatives[i])
        terms.append(max(math.log(pull) + math.log(push), 0.0))
        if terms[-1] > 0:
            pairs.usage[pairs.positives[i] + pairs.negatives[i]] += 1
    return mean(terms) + (0.005 * mean(norm(a) for a in pairs.x) if terms else 0.0)


def n_pair(pairs, weights):
    terms = []
    for i in pairs.valid:
        (positive,) = pairs.positives[i]
        score = dot(pairs.x[i], pairs.keys[positive]) / 16
        against = [dot(pairs.x[i], pairs.keys[n]) / 16 for n in pairs.negatives[i]]
        terms.append(math.log(1 + sum(math.exp(other - score) for other in NEGATIVE * against)))
        pairs.usage[[positive, *pairs.negatives[i]]] += 1
    return mean(terms) + (0.005 * mean(norm(a) / 4 for a in pairs.x) if terms else 0.0)


def proxy_anchor(pairs, weights):
    pull, push = [], []
    for c, proxy in enumerate(weights["proxies"]):
        cosines = [(dot(unit(a), unit(proxy)), y == c) for a, y in zip(pairs.x, pairs.labels, strict=True)]
        own = [s for s, same in cosines if same]
        if own:
            pull.append(math.log(1 + sum(math.exp(-32 * (s - 0.1)) for s in POSITIVE * own)))
        push.append(
            math.log(1 + sum(math.exp(32 * (s + 0.1)) for s in NEGATIVE * [s for s, same in cosines if not same]))
        )
    return mean(pull) + mean(push)


BOTH = {"positive_weight": POSITIVE, "negative_weight": NEGATIVE}
CASES = {
    "multi_similarity_weighted": Case(lambda: losses.MultiSimilarityLoss(**BOTH), multi_similarity),
    "sup_con_weighted": Case(lambda: losses.SupConLoss(**BOTH), sup_con),
    "generalized_lifted_structure_weighted": Case(
        lambda: losses.GeneralizedLiftedStructureLoss(**BOTH), generalized_lifted_structure, normalized=False
    ),
    "n_pair_weighted": Case(
        lambda: losses.NPairLoss(negative_weight=NEGATIVE), n_pair, normalized=False, one_positive=True
    ),
    "proxy_anchor_weighted": Case(lambda: losses.ProxyAnchorLoss(4, seed=1, **BOTH), proxy_anchor, proxies=True),
}
