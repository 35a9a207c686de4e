"""PDDM on Omniglot from scratch: 964 background characters train, 659 evaluation characters test.

Command: python -m zoo.reproduce omniglot_pddm --data-dir PATH
Needs:   Omniglot, see docs/data.md; downloaded without --data-dir
Takes:   about 12 minutes on one CPU core for each of the four arms: three seeds and the run that chooses the epoch

The comparison in docs/pddm.md was made by benchmarks/pddm_omniglot.py, which also measures retrieval by score. This is
the same network but for its pooling, trained for two epochs of the full training set.
"""

from zoo.recipe import DAS, PDDM, Recipe

OMNIGLOT_PDDM = Recipe(
    name="omniglot_pddm",
    summary="Omniglot characters from scratch, PDDM with and without DAS, beside semi-hard triplets",
    benchmark="omniglot",
    arms={
        "triplet": {"loss": "triplet", "loss_args": {"sampler": "semi_hard"}, "pddm": None},
        "pddm_triplet": {"loss_args": {"triplets": True}},
        "pddm": {},
        "pddm_das": {"das": DAS(detach=False)},
    },
    exported="pddm",
    backbone="small_conv",
    backbone_options={"widths": (16, 32, 64)},
    pooling="avg+max",
    embedding_dim=64,
    input_size=28,
    channels=1,
    loss="double_header_hinge",
    pddm=PDDM(),
    classes_per_batch=16,
    images_per_class=4,
    replacement=False,
    learning_rate=1e-3,
    epochs=2,
)
