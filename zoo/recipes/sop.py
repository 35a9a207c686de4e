"""Stanford Online Products (11,318 products train, 11,316 test): the rows of DAS's Tables 1 and 2, and its width K.

Command: python -m zoo.reproduce sop --data-dir PATH
         (also sop_losses and sop_top_k; and sop_ibn with --weights bn_inception-52deb4733.pth)
Needs:   the data set, see docs/data.md; ImageNet weights, see zoo/recipes/das.py
Takes:   not run by us; 159,300 steps of 112 images (300 epochs) for each seed and arm, and an evaluation of 60,502
         images after every epoch (--set evaluate_every=10 makes it every tenth). Meant for an accelerator

Published Recall@1, 10, 100, 1000 in per cent:

    sop      multi-similarity, ResNet-50, d=512      79.53 91.06 96.30 98.83, with DAS 80.59 91.80 96.68 98.95
    sop_ibn  multi-similarity, BN-Inception, d=512   76.89 89.58 95.59 98.60, with DAS 78.16 90.26 95.99 98.76

and Recall@1 of the margin loss with DAS, ResNet-50, d=128, with K scaled channels (`sop_top_k`):

    K         1      2      4      8     16     32
          78.76  78.86  79.14  78.09  77.94  77.96

`sop_losses`: seven losses, ResNet-50, d=128; Recall@1 without -> with DAS (F1 and NMI are in the recipe below):

    triplet, semi-hard              73.51 -> 73.99
    triplet, distance-weighted      77.54 -> 77.95
    contrastive, distance-weighted  73.13 -> 74.80
    margin, distance-weighted       78.69 -> 79.14
    generalized lifted structure    76.18 -> 76.92
    n-pair                          77.71 -> 77.98
    multi-similarity                78.89 -> 79.44

On this benchmark the authors' scripts set DAS for each loss anew: wider scaling, larger shifts, mostly not detached,
and for triplets L(real) + L(real + produced).
"""

import dataclasses

from zoo.recipe import DAS, derived
from zoo.recipes.das import (
    LOSSES,
    SOP_DAS,
    SOP_RANKS,
    TABLE_1,
    TABLE_2,
    losses_arms,
    published,
    with_and_without,
)

SOP = derived(
    TABLE_1,
    name="sop",
    summary="multi-similarity, ResNet-50, d=512, with and without DAS (Table 1)",
    benchmark="sop",
    arms=with_and_without("Table 1", SOP_RANKS, (79.53, 91.06, 96.30, 98.83), (80.59, 91.80, 96.68, 98.95)),
    das=SOP_DAS,
    ks=SOP_RANKS,
)
SOP_IBN = derived(
    SOP,
    name="sop_ibn",
    summary="multi-similarity, BN-Inception, d=512, with and without DAS (Table 1)",
    arms=with_and_without("Table 1", SOP_RANKS, (76.89, 89.58, 95.59, 98.60), (78.16, 90.26, 95.99, 98.76)),
    backbone="bn_inception",
)

WIDE = dataclasses.replace(SOP_DAS, top_k=4)
TRIPLETS = {"das": dataclasses.replace(WIDE, detach=True), "auxiliary_weight": 1.0}
MARGIN = dataclasses.replace(WIDE, shift_scale=0.01)
NARROW_UNNORMALIZED = DAS(scale_range=(0.99, 1.01), shift_scale=0.1, detach=False, normalize=False)

SOP_LOSSES = derived(
    TABLE_2,
    name="sop_losses",
    summary="seven losses, ResNet-50, d=128, with and without DAS (Table 2)",
    benchmark="sop",
    arms=losses_arms(
        {
            "triplet_semi_hard": ((73.51, 33.47, 89.33), (73.99, 33.91, 89.42)),
            "triplet_distance_weighted": ((77.54, 37.10, 90.05), (77.95, 37.64, 90.18)),
            "contrastive_distance_weighted": ((73.13, 35.60, 89.78), (74.80, 36.21, 89.89)),
            "margin_distance_weighted": ((78.69, 39.20, 90.50), (79.14, 39.52, 90.56)),
            "generalized_lifted_structure": ((76.18, 37.26, 90.13), (76.92, 37.64, 90.21)),
            "n_pair": ((77.71, 37.13, 90.15), (77.98, 37.82, 90.28)),
            "multi_similarity": ((78.89, 37.53, 90.12), (79.44, 38.77, 90.40)),
        },
        {
            "triplet_semi_hard": TRIPLETS,
            "triplet_distance_weighted": TRIPLETS,
            "contrastive_distance_weighted": {"das": WIDE},
            "margin_distance_weighted": {"das": MARGIN},
            "generalized_lifted_structure": {"das": NARROW_UNNORMALIZED},
            "n_pair": {"das": NARROW_UNNORMALIZED},
            "multi_similarity": {"das": WIDE},
        },
    ),
    ks=SOP_RANKS,
)
SOP_TOP_K = derived(
    TABLE_2,
    name="sop_top_k",
    summary="margin loss, ResNet-50, d=128, with DAS that scales K = 1, 2, 4, ... 32 channels",
    benchmark="sop",
    arms={
        f"k{top_k}": {
            "das": dataclasses.replace(MARGIN, top_k=top_k),
            "published": published("width K", recall_1=recall),
        }
        for top_k, recall in ((1, 78.76), (2, 78.86), (4, 79.14), (8, 78.09), (16, 77.94), (32, 77.96))
    },
    exported="k4",
    ks=SOP_RANKS,
    **LOSSES["margin_distance_weighted"],
)
