"""PDDM on the digits, and PDDM with DAS, beside triplets mined by distance: the same network, batches and steps.

Command: python -m zoo.reproduce digits_pddm
Needs:   nothing, as for `digits`
Takes:   about four minutes on 2 CPU cores, for three seeds of each arm and the run that chooses its epoch
"""

from zoo.recipe import DAS, PDDM, derived
from zoo.recipes.digits import DIGITS

DIGITS_PDDM = derived(
    DIGITS,
    name="digits_pddm",
    summary="the digits recipe with PDDM's learned similarity, with and without DAS; no download",
    das=None,
    loss="double_header_hinge",
    pddm=PDDM(),
    exported="pddm",
    arms={
        "triplet": {"loss": "triplet", "loss_args": {"sampler": "semi_hard"}, "pddm": None},
        "pddm_triplet": {"loss_args": {"triplets": True}},
        "pddm": {},
        # Attached: detached embeddings among the hardest negatives stop PDDM from learning, see docs/pddm.md.
        "pddm_das": {"das": DAS(detach=False)},
    },
)
