"""Losses whose sums inside a logarithm are weighted: each term of a sum is added as often as its weight says."""

import functools

import loss_cases
from loss_checks import Case

from keras_dml import losses

POSITIVE, NEGATIVE = 3, 2
WEIGHTS = {"positive_weight": POSITIVE, "negative_weight": NEGATIVE}


def weighted(reference):
    return functools.partial(reference, positive=POSITIVE, negative=NEGATIVE)


CASES = {
    "multi_similarity_weighted": Case(
        lambda: losses.MultiSimilarityLoss(**WEIGHTS), weighted(loss_cases.multi_similarity)
    ),
    "sup_con_weighted": Case(lambda: losses.SupConLoss(**WEIGHTS), weighted(loss_cases.sup_con)),
    "generalized_lifted_structure_weighted": Case(
        lambda: losses.GeneralizedLiftedStructureLoss(**WEIGHTS),
        weighted(loss_cases.generalized_lifted_structure),
        normalized=False,
    ),
    "n_pair_weighted": Case(
        lambda: losses.NPairLoss(negative_weight=NEGATIVE),
        functools.partial(loss_cases.n_pair, negative=NEGATIVE),
        normalized=False,
        one_positive=True,
    ),
    "proxy_anchor_weighted": Case(
        lambda: losses.ProxyAnchorLoss(4, seed=1, **WEIGHTS), weighted(loss_cases.proxy_anchor), proxies=True
    ),
}
