"""Handwritten digits: the whole path on real images, with nothing to download.

Command: python -m zoo.reproduce digits
Needs:   nothing; scikit-learn brings the images (8 x 8 scans; classes 0-4 train, 5-9 test)
Takes:   about three minutes on 2 CPU cores, for three seeds and the run that chooses the epoch, with and without DAS
"""

from zoo.recipe import DAS, Recipe

DIGITS = Recipe(
    name="digits",
    summary="scikit-learn's digits, small conv net, multi-similarity loss, with and without DAS; no download",
    benchmark="digits",
    arms={"baseline": {"das": None}, "das": {}},
    exported="das",
    rivals=("raw_pixels",),
    backbone="small_conv",
    # Wide embeddings of an untrained network keep the pixels, which already separate digits; eight numbers must be
    # learned.
    embedding_dim=8,
    input_size=8,
    channels=1,
    loss="multi_similarity",
    das=DAS(top_k=2),
    # Two images per class, as in the paper's batches.
    classes_per_batch=5,
    images_per_class=2,
    augment="random_affine",
    learning_rate=5e-4,
    l2_decay=4e-4,
    epochs=6,
    lr_milestones=(4, 5),
)
