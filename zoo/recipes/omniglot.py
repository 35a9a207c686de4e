"""Omniglot from scratch: 964 background characters train, 659 evaluation characters test; three losses with and
without DAS.

Command: python -m zoo.reproduce omniglot --data-dir PATH
Needs:   Omniglot, see docs/data.md; downloaded without --data-dir
Takes:   about five minutes on one CPU core for each of 24 runs: six arms with three seeds, and one run each to choose
         the epoch

Nobody has published DAS on Omniglot. docs/das.md has what we measured with this recipe.
"""

from zoo.recipe import DAS, Recipe

OMNIGLOT = Recipe(
    name="omniglot",
    summary="characters from scratch, small conv net: three losses with and without DAS",
    benchmark="omniglot",
    arms={
        "ms": {"das": None, "learning_rate": 1e-2},
        "ms_das": {},
        "margin": {"loss": "margin", "das": None, "learning_rate": 1e-2},
        "margin_das": {"loss": "margin", "learning_rate": 1e-2},
        "triplet": {"loss": "triplet", "das": None},
        "triplet_das": {"loss": "triplet"},
    },
    exported="ms_das",
    rivals=("raw_pixels",),
    backbone="small_conv",
    backbone_options={"widths": (16, 32, 64)},
    pooling="avg+max",
    embedding_dim=64,
    input_size=28,
    channels=1,
    loss="multi_similarity",
    das=DAS(),
    # The paper's batches.
    classes_per_batch=56,
    images_per_class=2,
    # Every arm has its best rate on held-out training classes, out of four or five (docs/das.md).
    learning_rate=3e-3,
    epochs=24,
    lr_milestones=(15, 21),
    evaluate_every=3,
)
