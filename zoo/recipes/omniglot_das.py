"""Which settings of DAS matter on Omniglot: one at a time away from the paper's defaults, with multi-similarity.

Command: python -m zoo.reproduce omniglot_das --data-dir PATH
Needs:   Omniglot, see docs/data.md; downloaded without --data-dir
Takes:   about two minutes on one CPU core for each seed of each of the nine arms

docs/das.md has what we measured with this recipe.
"""

from zoo.recipe import DAS, derived
from zoo.recipes.omniglot import OMNIGLOT

OMNIGLOT_DAS = derived(
    OMNIGLOT,
    name="omniglot_das",
    summary="the settings of DAS one at a time, multi-similarity, small conv net from scratch",
    arms={
        "none": {"das": None},
        "default": {},
        "produced_1": {"das": DAS(num_produced=1)},
        "top_32": {"das": DAS(top_k=32)},
        "bank_1": {"das": DAS(bank_size=1)},
        # Copies of the anchors: what remains of DAS when nothing is scaled and nothing shifted.
        "copies": {"das": DAS(scale_range=(1.0, 1.0), shift_scale=0.0)},
        "scale_wide": {"das": DAS(scale_range=(0.5, 2.0))},
        "shift_0.5": {"das": DAS(shift_scale=0.5)},
        "attached": {"das": DAS(detach=False)},
    },
    exported="default",
    # A third of what `omniglot` takes, as there are many arms; the rate is not tuned.
    learning_rate=1e-3,
    epochs=8,
    lr_milestones=(5, 7),
    evaluate_every=2,
    select_epoch=False,
)
