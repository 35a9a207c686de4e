"""Every loss beside a reference written from its formula with loops, in double precision, for the tests to compare.

A new loss brings its own in a file `case_NAME.py` here, with a `CASES` of the same form.
"""

import functools
import importlib
import math
import pathlib

from loss_checks import Case, FirstLastMiner, cosines_with_proxies, cross_entropy, distance, dot, mean, norm, unit

from keras_dml import losses


def contrastive(pairs, weights):
    return mean(
        max(distance(pairs.x[i], pairs.keys[p]) - 0.0, 0.0) + max(1.0 - distance(pairs.x[i], pairs.keys[n]), 0.0)
        for i, p, n in pairs.triplets()
    )


def triplet(pairs, weights):
    return mean(
        max(distance(pairs.x[i], pairs.keys[p]) ** 2 - distance(pairs.x[i], pairs.keys[n]) ** 2 + 0.2, 0.0)
        for i, p, n in pairs.triplets()
    )


def margin(pairs, weights):
    total, active = 0.0, 0
    for i, p, n in pairs.triplets():
        beta = weights["boundaries"][pairs.labels[i]]
        pull = max(math.sqrt(distance(pairs.x[i], pairs.keys[p]) ** 2 + 1e-8) - beta + 0.2, 0.0)
        push = max(beta - math.sqrt(distance(pairs.x[i], pairs.keys[n]) ** 2 + 1e-8) + 0.2, 0.0)
        total += pull + push
        active += pull > 0 or push > 0
    return total / active if active else 0.0


def n_pair(pairs, weights, negative=1):
    terms = []
    for i in pairs.valid:
        assert len(pairs.positives[i]) == 1, "the positive is drawn: give the reference no choice"
        a, p = [v / 4 for v in pairs.x[i]], [v / 4 for v in pairs.keys[pairs.positives[i][0]]]
        total = 1.0
        pairs.usage[pairs.positives[i][0]] += 1
        for n in pairs.negatives[i]:
            total += negative * math.exp(dot(a, [v / 4 for v in pairs.keys[n]]) - dot(a, p))
            pairs.usage[n] += 1
        terms.append(math.log(total))
    return mean(terms) + (0.005 * mean(norm(a) / 4 for a in pairs.x) if terms else 0.0)


def generalized_lifted_structure(pairs, weights, positive=1, negative=1):
    terms = []
    for i in pairs.valid:
        pull = sum(math.exp(distance(pairs.x[i], pairs.keys[p])) for p in positive * pairs.positives[i])
        push = sum(math.exp(1.0 - distance(pairs.x[i], pairs.keys[n])) for n in negative * pairs.negatives[i])
        terms.append(max(math.log(pull) + math.log(push), 0.0))
        if terms[-1] > 0:
            pairs.usage[pairs.positives[i] + pairs.negatives[i]] += 1
    return mean(terms) + (0.005 * mean(norm(a) for a in pairs.x) if terms else 0.0)


def multi_similarity(pairs, weights, positive=1, negative=1):
    terms = []
    for i in pairs.valid:
        scores = [dot(pairs.x[i], key) for key in pairs.keys]
        positives = [p for p in pairs.positives[i] if scores[p] - 0.1 < max(scores[n] for n in pairs.negatives[i])]
        negatives = [n for n in pairs.negatives[i] if scores[n] + 0.1 > min(scores[p] for p in pairs.positives[i])]
        if not positives or not negatives:
            continue
        pull = math.log(1 + sum(math.exp(-2.0 * (scores[p] - 0.5)) for p in positive * positives)) / 2.0
        push = math.log(1 + sum(math.exp(40.0 * (scores[n] - 0.5)) for n in negative * negatives)) / 40.0
        terms.append(pull + push)
        pairs.usage[positives + negatives] += 1
    return mean(terms)


def sup_con(pairs, weights, positive=1, negative=1):
    terms = []
    for i in range(len(pairs.x)):
        if not pairs.positives[i]:
            continue
        scores = [dot(pairs.x[i], key) / 0.1 for key in pairs.keys]
        total = sum(math.exp(scores[k]) for k in positive * pairs.positives[i] + negative * pairs.negatives[i])
        terms.append(-mean(math.log(math.exp(scores[p]) / total) for p in pairs.positives[i]))
        pairs.usage[pairs.positives[i] + pairs.negatives[i]] += 1
    return mean(terms)


def spherical_embedding_constraint(pairs, weights):
    """Around the triplet loss, outside training and before any batch was seen: the mean is that of the batch."""
    lengths = [norm(a) for a in pairs.x]
    # No gradient flows through the mean, so it stays where it was at the points the gradient is taken at.
    center = weights.setdefault("center", mean(lengths))
    penalty = mean((length - center) ** 2 for length in lengths)
    pairs.x = [unit(a) for a in pairs.x]
    pairs.keys = [unit(a) for a in pairs.keys]
    return triplet(pairs, weights) + 0.01 * penalty


def normalized_softmax(pairs, weights):
    return cross_entropy([[v / 0.05 for v in row] for row in cosines_with_proxies(pairs, weights)], pairs.labels)


def proxy_nca(pairs, weights):
    logits = [[-(distance(unit(a), unit(p)) ** 2) * 9 for p in weights["proxies"]] for a in pairs.x]
    return cross_entropy(logits, pairs.labels)


def proxy_anchor(pairs, weights, positive=1, negative=1):
    cosines = cosines_with_proxies(pairs, weights)
    pull, push = [], []
    for c in range(len(weights["proxies"])):
        own = [row[c] for row, y in zip(cosines, pairs.labels, strict=True) if y == c]
        other = [row[c] for row, y in zip(cosines, pairs.labels, strict=True) if y != c]
        if own:
            pull.append(math.log(1 + sum(math.exp(-32 * (s - 0.1)) for s in positive * own)))
        push.append(math.log(1 + sum(math.exp(32 * (s + 0.1)) for s in negative * other)))
    return mean(pull) + mean(push)


def arcface(pairs, weights):
    logits = []
    for row, y in zip(cosines_with_proxies(pairs, weights), pairs.labels, strict=True):
        theta = math.acos(row[y])
        widened = math.cos(theta + 0.5) if theta + 0.5 < math.pi else row[y] - 0.5 * math.sin(0.5)
        logits.append([64 * (widened if c == y else v) for c, v in enumerate(row)])
    return cross_entropy(logits, pairs.labels)


CASES = {
    "contrastive": Case(lambda: losses.ContrastiveLoss(miner=FirstLastMiner()), contrastive),
    "triplet": Case(lambda: losses.TripletLoss(miner=FirstLastMiner()), triplet),
    "margin": Case(lambda: losses.MarginLoss(4, miner=FirstLastMiner()), margin),
    "n_pair": Case(losses.NPairLoss, n_pair, normalized=False, one_positive=True),
    "generalized_lifted_structure": Case(
        losses.GeneralizedLiftedStructureLoss, generalized_lifted_structure, normalized=False
    ),
    "multi_similarity": Case(losses.MultiSimilarityLoss, multi_similarity),
    "sup_con": Case(losses.SupConLoss, sup_con),
    "spherical_embedding_constraint": Case(
        lambda: losses.SphericalEmbeddingConstraint(losses.TripletLoss(miner=FirstLastMiner())),
        spherical_embedding_constraint,
        normalized=False,
    ),
    "normalized_softmax": Case(lambda: losses.NormalizedSoftmaxLoss(4, seed=1), normalized_softmax, proxies=True),
    "proxy_nca": Case(lambda: losses.ProxyNCALoss(4, seed=1), proxy_nca, proxies=True),
    "proxy_anchor": Case(lambda: losses.ProxyAnchorLoss(4, seed=1), proxy_anchor, proxies=True),
    "arcface": Case(lambda: losses.ArcFaceLoss(4, seed=1), arcface, proxies=True),
}
for path in sorted(pathlib.Path(__file__).parent.glob("case_*.py")):
    CASES.update(importlib.import_module(path.stem).CASES)
PAIR_CASES = [name for name, case in CASES.items() if not case.proxies]


@functools.cache
def shared_loss(name):
    """A loss that tests share, to compile it once."""
    return CASES[name].make()
