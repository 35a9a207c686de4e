"""CARS196 (196 models of cars; 98 train, 98 test): the rows of DAS's Tables 1, 2 and 4, and what its two halves do.

Command: python -m zoo.reproduce cars196 --data-dir PATH
         (also cars196_losses, cars196_ablation, cars196_table4; and cars196_ibn and cars196_table4_ibn with --weights
         bn_inception-52deb4733.pth)
Needs:   the data set, see docs/data.md; ImageNet weights, see zoo/recipes/das.py
Takes:   not run by us; 21,300 steps of 112 images (300 epochs) for each seed and arm, and an evaluation of 8,131 images
         after every epoch. Meant for an accelerator

Published Recall@1, 2, 4, 8 in per cent:

    cars196      multi-similarity, ResNet-50, d=512      83.99 90.39 94.51 96.80, with DAS 87.84 93.15 95.99 97.85
    cars196_ibn  multi-similarity, BN-Inception, d=512   83.86 90.41 94.64 96.99, with DAS 85.66 91.60 95.27 97.37

and Recall@1 alone:

    cars196_table4      margin + DAS, ResNet-50, d=512      88.34
    cars196_table4_ibn  BN-Inception, d=512: multi-similarity with SEC 85.73, with DAS as well 87.80; margin + DAS 84.85
    cars196_ablation    triplets, distance-weighted, ResNet-50, d=128: neither half of DAS 78.86, scaling (DFS) alone
                        81.28, shifting (MTS) alone 81.83, both 82.63

`cars196_losses`: seven losses, ResNet-50, d=128; Recall@1 without -> with DAS (F1 and NMI are in the recipe below):

    triplet, semi-hard              74.64 -> 77.21
    triplet, distance-weighted      78.86 -> 82.63
    contrastive, distance-weighted  76.03 -> 80.74
    margin, distance-weighted       80.10 -> 82.29
    generalized lifted structure    72.45 -> 73.55
    n-pair                          77.35 -> 79.93
    multi-similarity                82.04 -> 83.31

The settings of Table 4 are not in the authors' scripts; those of Table 1 are used for it. In their code the penalty of
SEC falls on real embeddings alone. Here it is averaged over produced ones as well, which are detached, so its weight is
multiplied to leave the real ones the same gradient.
"""

from zoo.recipe import DAS, derived
from zoo.recipes.das import LOSSES, TABLE_1, TABLE_2, losses_arms, published, with_and_without

CARS196 = derived(
    TABLE_1,
    name="cars196",
    summary="multi-similarity, ResNet-50, d=512, with and without DAS (Table 1)",
    benchmark="cars196",
    arms=with_and_without("Table 1", (1, 2, 4, 8), (83.99, 90.39, 94.51, 96.80), (87.84, 93.15, 95.99, 97.85)),
)
CARS196_IBN = derived(
    CARS196,
    name="cars196_ibn",
    summary="multi-similarity, BN-Inception, d=512, with and without DAS (Table 1)",
    arms=with_and_without("Table 1", (1, 2, 4, 8), (83.86, 90.41, 94.64, 96.99), (85.66, 91.60, 95.27, 97.37)),
    backbone="bn_inception",
)
CARS196_LOSSES = derived(
    TABLE_2,
    name="cars196_losses",
    summary="seven losses, ResNet-50, d=128, with and without DAS (Table 2)",
    benchmark="cars196",
    arms=losses_arms(
        {
            "triplet_semi_hard": ((74.64, 31.98, 63.22), (77.21, 33.88, 64.84)),
            "triplet_distance_weighted": ((78.86, 35.80, 65.85), (82.63, 39.14, 68.12)),
            "contrastive_distance_weighted": ((76.03, 32.77, 64.09), (80.74, 36.07, 65.93)),
            "margin_distance_weighted": ((80.10, 37.85, 67.15), (82.29, 38.22, 67.94)),
            "generalized_lifted_structure": ((72.45, 32.43, 64.00), (73.55, 32.85, 64.11)),
            "n_pair": ((77.35, 36.26, 66.74), (79.93, 38.06, 68.20)),
            "multi_similarity": ((82.04, 40.85, 69.45), (83.31, 42.78, 70.77)),
        }
    ),
)

HALVES = "scaling and shifting apart"
CARS196_ABLATION = derived(
    TABLE_2,
    name="cars196_ablation",
    summary="scaling and shifting apart: triplets, ResNet-50, d=128, with none, one and both halves of DAS",
    benchmark="cars196",
    arms={
        "none": {"das": None, "published": published(HALVES, recall_1=78.86)},
        "scaling": {"das": DAS(shift_scale=0.0), "published": published(HALVES, recall_1=81.28)},
        "shifting": {"das": DAS(scale_range=(1.0, 1.0)), "published": published(HALVES, recall_1=81.83)},
        "both": {"published": published(HALVES, recall_1=82.63)},
    },
    exported="both",
    **LOSSES["triplet_distance_weighted"],
)

CARS196_TABLE4 = derived(
    CARS196,
    name="cars196_table4",
    summary="margin loss, ResNet-50, d=512, with and without DAS (Table 4)",
    arms={"margin": {"das": None}, "margin_das": {"published": published("Table 4", recall_1=88.34)}},
    exported="margin_das",
    seeds=(0,),
    **LOSSES["margin_distance_weighted"],
)
# Its loss compares directions, and the constraint is there to make lengths tell nothing.
SEC = {"loss": "spherical_embedding_constraint", "normalize": False, "metric": "cosine"}
SEC_WEIGHT = 0.01
SEC_DAS = DAS(top_k=8, normalize=False)
CARS196_TABLE4_IBN = derived(
    CARS196_IBN,
    name="cars196_table4_ibn",
    summary="multi-similarity with SEC, and margin loss, BN-Inception, d=512, with and without DAS (Table 4)",
    arms={
        "multi_similarity_sec": {
            **SEC,
            "loss_args": {"loss": "multi_similarity", "weight": SEC_WEIGHT},
            "das": None,
            "published": published("Table 4", recall_1=85.73),
        },
        "multi_similarity_sec_das": {
            **SEC,
            "loss_args": {"loss": "multi_similarity", "weight": SEC_WEIGHT * (1 + SEC_DAS.num_produced)},
            "das": SEC_DAS,
            "published": published("Table 4", recall_1=87.80),
        },
        "margin": {**LOSSES["margin_distance_weighted"], "das": None},
        "margin_das": {**LOSSES["margin_distance_weighted"], "published": published("Table 4", recall_1=84.85)},
    },
    exported="multi_similarity_sec_das",
    seeds=(0,),
)
