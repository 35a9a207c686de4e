"""CUB-200-2011 (200 kinds of birds; 100 train, 100 test): the rows of DAS's Tables 1 and 2.

Command: python -m zoo.reproduce cub200 --data-dir PATH
         (also cub200_ibn --weights bn_inception-52deb4733.pth, and cub200_losses)
Needs:   the data set, see docs/data.md; ImageNet weights, see zoo/recipes/das.py
Takes:   not run by us; 9,600 steps of 180 images (300 epochs) for each seed and arm, 15,600 steps of 112 images for the
         other two recipes, and an evaluation of 5,924 images after every epoch. Meant for an accelerator

Published Recall@1, 2, 4, 8 in per cent:

    cub200      multi-similarity, ResNet-50, d=512      66.46 77.28 85.85 91.69, with DAS 69.19 79.25 87.09 92.62
    cub200_ibn  multi-similarity, BN-Inception, d=512   65.72 77.19 85.74 91.56, with DAS 67.07 78.11 86.43 91.88

`cub200_losses`: seven losses, ResNet-50, d=128; Recall@1 without -> with DAS (F1 and NMI are in the recipe below):

    triplet, semi-hard              60.25 -> 60.82
    triplet, distance-weighted      62.68 -> 64.28
    contrastive, distance-weighted  61.65 -> 63.67
    margin, distance-weighted       62.61 -> 64.50
    generalized lifted structure    58.81 -> 59.94
    n-pair                          60.55 -> 62.81
    multi-similarity                62.63 -> 64.13
"""

from zoo.recipe import derived
from zoo.recipes.das import TABLE_1, TABLE_2, losses_arms, with_and_without

CUB200 = derived(
    TABLE_1,
    name="cub200",
    summary="multi-similarity, ResNet-50, d=512, with and without DAS (Table 1)",
    benchmark="cub200",
    arms=with_and_without("Table 1", (1, 2, 4, 8), (66.46, 77.28, 85.85, 91.69), (69.19, 79.25, 87.09, 92.62)),
    # The authors' settings for this row alone. Their scripts have its arm with DAS; that the other shares them is our
    # reading.
    classes_per_batch=90,
    l2_decay=8e-4,
)
CUB200_IBN = derived(
    TABLE_1,
    name="cub200_ibn",
    summary="multi-similarity, BN-Inception, d=512, with and without DAS (Table 1)",
    benchmark="cub200",
    arms=with_and_without("Table 1", (1, 2, 4, 8), (65.72, 77.19, 85.74, 91.56), (67.07, 78.11, 86.43, 91.88)),
    backbone="bn_inception",
)
CUB200_LOSSES = derived(
    TABLE_2,
    name="cub200_losses",
    summary="seven losses, ResNet-50, d=128, with and without DAS (Table 2)",
    benchmark="cub200",
    arms=losses_arms(
        {
            "triplet_semi_hard": ((60.25, 32.82, 64.64), (60.82, 33.86, 65.67)),
            "triplet_distance_weighted": ((62.68, 36.39, 67.03), (64.28, 38.16, 68.06)),
            "contrastive_distance_weighted": ((61.65, 35.23, 66.58), (63.67, 36.25, 67.15)),
            "margin_distance_weighted": ((62.61, 37.33, 67.58), (64.50, 37.86, 68.04)),
            "generalized_lifted_structure": ((58.81, 34.64, 65.50), (59.94, 35.09, 66.07)),
            "n_pair": ((60.55, 36.94, 67.19), (62.81, 38.37, 68.43)),
            "multi_similarity": ((62.63, 38.88, 68.19), (64.13, 39.18, 69.08)),
        }
    ),
)
