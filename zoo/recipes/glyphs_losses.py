"""Other losses on the letters, with the network and batches of `glyphs` and twice its steps, which some need.

Command: python -m zoo.reproduce glyphs_losses
Needs:   nothing, as for `glyphs`
Takes:   about seven minutes on 2 CPU cores, for three seeds of five arms

Every arm has its best rate on held-out Latin classes: python -m zoo.tune glyphs_losses.
"""

from zoo.recipe import PDDM, derived
from zoo.recipes.glyphs import GLYPHS

GLYPHS_LOSSES = derived(
    GLYPHS,
    name="glyphs_losses",
    summary="the glyphs recipe with other losses, without DAS; no download",
    das=None,
    exported="triplet",
    epochs=10,
    arms={
        "multi_similarity": {"learning_rate": 1e-2},
        # Boundaries of classes start far from where they end, and each is in a batch in 24.
        "margin": {"loss": "margin", "learning_rate": 3.16e-3, "loss_learning_rate": 1e-1},
        "triplet": {"loss": "triplet"},
        "proxy_anchor": {"loss": "proxy_anchor"},
        "pddm": {"loss": "double_header_hinge", "pddm": PDDM(), "learning_rate": 1e-3, "loss_learning_rate": 1e-2},
    },
)
