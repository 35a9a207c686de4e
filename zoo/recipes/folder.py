"""Your own folder of classes: a starting point, not a tuned recipe.

Command: python -m zoo.reproduce folder --data-dir PATH
Needs:   PATH/CLASS/*.jpg, of which half of the classes train and half test; or PATH/train, PATH/test (and PATH/gallery)
         with classes in each; see docs/data.md. ImageNet weights of MobileNetV2 are downloaded.
Takes:   not timed by us; 30 epochs of `images // 112` steps of 112 images at 224 x 224, for each seed and arm

A small network, which a CPU can train on a few thousand images; the loss, the batches and DAS are the DAS paper's, at a
higher rate and for a tenth of its epochs. The network and the schedule of its Table 1, meant for an accelerator:

    python -m zoo.reproduce folder --data-dir PATH --epochs 300 --set "lr_milestones=(200, 250)" \\
        --set learning_rate=1e-5 --set backbone=resnet50 --set embedding_dim=512 --set pooling=avg+max \\
        --set das.top_k=8

Whether DAS helps on your images is what the two arms tell.
"""

from zoo.recipe import derived
from zoo.recipes.das import TABLE_2

FOLDER = derived(
    TABLE_2,
    name="folder",
    summary="your own images: multi-similarity, MobileNetV2, d=128, with and without DAS",
    benchmark="folder",
    arms={"baseline": {"das": None}, "das": {}},
    exported="das",
    backbone="mobilenet_v2",
    learning_rate=1e-4,
    epochs=30,
    lr_milestones=(20, 25),
    seeds=(0, 1, 2),
)
