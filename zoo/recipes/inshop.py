"""In-Shop Clothes Retrieval (3,997 garments train; 14,218 queries against a gallery of 12,612 images of 3,985 others).

Command: python -m zoo.reproduce inshop --data-dir PATH
Needs:   the data set, see docs/data.md; ImageNet weights, see zoo/recipes/das.py
Takes:   300 epochs, 69,300 steps of 112 images, for each seed and arm, and an evaluation after every epoch: meant for
         an accelerator. Not run by us.

The DAS paper has no figure for this benchmark. The settings are ours: those it uses on Stanford Online Products, which
is as large and has as few images of each class.
"""

import dataclasses

from zoo.recipes.das import SOP_DAS, TABLE_1

INSHOP = dataclasses.replace(
    TABLE_1,
    name="inshop",
    summary="multi-similarity, ResNet-50, d=512, with and without DAS; settings of sop, no published figure",
    benchmark="inshop",
    das=SOP_DAS,
    ks=(1, 10, 20, 30, 40),
)
