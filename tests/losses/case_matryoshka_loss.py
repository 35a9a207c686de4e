"""References of a loss around losses of prefixes; as the points of the tests have two channels, so do these."""

from loss_cases import multi_similarity
from loss_checks import Case, Pairs, unit

from keras_dml import losses


def _prefixes(pairs, width):
    """The same queries and keys with their first channels alone, at unit length."""
    cut = Pairs.__new__(Pairs)
    vars(cut).update(vars(pairs))
    cut.x = [unit(row[:width]) for row in pairs.x]
    cut.keys = [unit(row[:width]) for row in pairs.keys]
    return cut


def matryoshka(pairs, weights):
    return 0.5 * multi_similarity(_prefixes(pairs, 1), weights) + 2.0 * multi_similarity(_prefixes(pairs, 2), weights)


CASES = {
    "matryoshka": Case(
        lambda: losses.MatryoshkaLoss(losses.MultiSimilarityLoss(), (1, 2), (0.5, 2.0)), matryoshka, normalized=False
    ),
}
