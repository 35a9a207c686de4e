"""In-Shop Clothes Retrieval (3,997 garments train; 14,218 queries against a gallery of 12,612 images of 3,985 others).

Command: python -m zoo.reproduce inshop --data-dir PATH
Needs:   the data set, see docs/data.md; ImageNet weights, see zoo/recipes/das.py
Takes:   not run by us; 69,300 steps of 112 images (300 epochs) for each seed and arm, and an evaluation of 26,830
         images after every epoch. Meant for an accelerator

The DAS paper has no figure for this benchmark. The settings are ours: those it uses on Stanford Online Products, which
is as large and has as few images of each class.
"""

from zoo.recipe import derived
from zoo.recipes.das import SOP_DAS, TABLE_1

INSHOP = derived(
    TABLE_1,
    name="inshop",
    summary="multi-similarity, ResNet-50, d=512, with and without DAS; settings of sop, no published figure",
    benchmark="inshop",
    das=SOP_DAS,
    ks=(1, 10, 20, 30, 40),
)
