"""Every loss on the digits, with the same network, batches and steps; docs/losses.md has the results.

Command: python -m zoo.reproduce digits_losses
Needs:   nothing, as for `digits`
Takes:   about 18 minutes on 2 CPU cores, for three seeds of each loss and the run that chooses its epoch
"""

from zoo.recipe import derived
from zoo.recipes.digits import DIGITS

UNNORMALIZED = {"normalize": False}

DIGITS_LOSSES = derived(
    DIGITS,
    name="digits_losses",
    summary="the digits recipe with every loss and miner, without DAS; no download",
    das=None,
    exported="multi_similarity",
    arms={
        "multi_similarity": {"loss": "multi_similarity"},
        "contrastive_distance_weighted": {"loss": "contrastive"},
        "triplet_semi_hard": {"loss": "triplet", "loss_args": {"miner": "semi_hard"}},
        "triplet_soft_hard": {"loss": "triplet", "loss_args": {"miner": "soft_hard"}},
        "triplet_random": {"loss": "triplet", "loss_args": {"miner": "random"}},
        "triplet_distance_weighted": {"loss": "triplet", "loss_args": {"miner": "distance_weighted"}},
        "margin_distance_weighted": {"loss": "margin"},
        "n_pair": {"loss": "n_pair", **UNNORMALIZED},
        "generalized_lifted_structure": {"loss": "generalized_lifted_structure", **UNNORMALIZED},
        "multi_similarity_sec": {
            "loss": "spherical_embedding_constraint",
            "loss_args": {"loss": "multi_similarity"},
            **UNNORMALIZED,
            # Its loss compares directions.
            "metric": "cosine",
        },
        "sup_con": {"loss": "sup_con"},
        "proxy_nca": {"loss": "proxy_nca"},
        "proxy_anchor": {"loss": "proxy_anchor"},
        "normalized_softmax": {"loss": "normalized_softmax"},
        "arcface": {"loss": "arcface"},
        "subcenter_arcface": {"loss": "subcenter_arcface"},
        "cosface": {"loss": "cosface"},
        "soft_triple": {"loss": "soft_triple"},
        "circle": {"loss": "circle"},
        "smooth_ap": {"loss": "smooth_ap"},
        "recall_at_k_surrogate": {"loss": "recall_at_k_surrogate"},
        "cross_batch_memory": {
            "loss": "cross_batch_memory",
            "loss_args": {"loss": "multi_similarity", "memory_size": 100},
        },
    },
)
