"""iNaturalist 2018 (5,690 species train, 325,846 images; 2,452 others test, 136,093 images): losses of rankings.

Command: python -m zoo.reproduce inaturalist2018 --data-dir PATH
Needs:   the data set and the lists of its split, see docs/data.md; ImageNet weights, see zoo/recipes/das.py
Takes:   not run by us; 261,810 steps of 112 images (90 epochs) for each arm, and an evaluation of 136,093 images after
         every tenth epoch. Meant for an accelerator

Published Recall@1 in per cent of Smooth-AP (Brown et al., ECCV 2020; ResNet-50, d=512): 67.2, from a listing, protocol
unverified. The settings are ours: those of the DAS recipes, in batches of 28 classes x 4 images. The number of epochs
and the milestones are those that the authors of the recall@k surrogate use here, with batches of 4,000.
"""

from zoo.recipe import derived
from zoo.recipes.das import TABLE_1

INATURALIST2018 = derived(
    TABLE_1,
    name="inaturalist2018",
    summary="multi-similarity, Smooth-AP and recall@k surrogate, ResNet-50, d=512; settings ours",
    benchmark="inaturalist2018",
    arms={
        "multi_similarity": {"loss": "multi_similarity"},
        "smooth_ap": {
            "loss": "smooth_ap",
            "published": {
                "source": "listing of Smooth-AP, ECCV 2020, protocol unverified",
                "metrics": {"recall@1": 67.2},
            },
        },
        "recall_at_k_surrogate": {"loss": "recall_at_k_surrogate"},
    },
    exported="smooth_ap",
    das=None,
    classes_per_batch=28,
    images_per_class=4,
    epochs=90,
    lr_milestones=(40, 70),
    evaluate_every=10,
    select_epoch=False,
    clustering=False,
    ks=(1, 4, 16, 32),
    seeds=(0,),
)
