"""The recipes, by name."""

from keras_dml.utils.suggestions import unknown_name
from zoo.recipe import Recipe
from zoo.recipes.cars196 import (
    CARS196,
    CARS196_ABLATION,
    CARS196_IBN,
    CARS196_LOSSES,
    CARS196_TABLE4,
    CARS196_TABLE4_IBN,
)
from zoo.recipes.cars196_small import CARS196_SMALL
from zoo.recipes.cub200 import CUB200, CUB200_IBN, CUB200_LOSSES
from zoo.recipes.digits import DIGITS
from zoo.recipes.digits_losses import DIGITS_LOSSES
from zoo.recipes.digits_pddm import DIGITS_PDDM
from zoo.recipes.dinov2 import CARS196_DINOV2, CUB200_DINOV2, SOP_DINOV2
from zoo.recipes.domainnet import DOMAINNET, DOMAINNET_TO_REAL
from zoo.recipes.folder import FOLDER, FOLDER_FINETUNE
from zoo.recipes.glyphs import GLYPHS
from zoo.recipes.glyphs_losses import GLYPHS_LOSSES
from zoo.recipes.imagenet import IMAGENET10K_TRANSFER, IMAGENET2010_ZERO_SHOT
from zoo.recipes.inaturalist import INATURALIST2018
from zoo.recipes.inshop import INSHOP
from zoo.recipes.omniglot import OMNIGLOT
from zoo.recipes.omniglot_das import OMNIGLOT_DAS
from zoo.recipes.omniglot_pddm import OMNIGLOT_PDDM
from zoo.recipes.pddm import CARS196_CROPPED_PDDM, CARS196_PDDM, CUB200_CROPPED_PDDM, CUB200_PDDM
from zoo.recipes.sop import SOP, SOP_IBN, SOP_LOSSES, SOP_TOP_K

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        GLYPHS,
        GLYPHS_LOSSES,
        DIGITS,
        DIGITS_LOSSES,
        DIGITS_PDDM,
        OMNIGLOT,
        OMNIGLOT_DAS,
        OMNIGLOT_PDDM,
        CUB200,
        CUB200_IBN,
        CUB200_LOSSES,
        CUB200_DINOV2,
        CUB200_PDDM,
        CUB200_CROPPED_PDDM,
        CARS196,
        CARS196_SMALL,
        CARS196_IBN,
        CARS196_LOSSES,
        CARS196_ABLATION,
        CARS196_TABLE4,
        CARS196_TABLE4_IBN,
        CARS196_DINOV2,
        CARS196_PDDM,
        CARS196_CROPPED_PDDM,
        SOP,
        SOP_IBN,
        SOP_LOSSES,
        SOP_TOP_K,
        SOP_DINOV2,
        INSHOP,
        INATURALIST2018,
        *DOMAINNET,
        *DOMAINNET_TO_REAL,
        IMAGENET2010_ZERO_SHOT,
        IMAGENET10K_TRANSFER,
        FOLDER,
        FOLDER_FINETUNE,
    )
}

DEFAULT = "glyphs"
"""The recipe that runs where none is named."""

HEADLINES: dict[str, str] = {
    "cub200_cropped": "cub200_cropped_pddm",
    "cars196_cropped": "cars196_cropped_pddm",
}
"""The recipe that a benchmark's name stands for, where no recipe has that name itself."""


def get(name: str) -> Recipe:
    """The recipe called `name`, or the headline recipe of the benchmark of that name.

    Raises:
        ValueError: For an unknown name, with the nearest one.
    """
    name = name if name in RECIPES else HEADLINES.get(name, name)
    if name not in RECIPES:
        raise ValueError(unknown_name("recipe", name, [*RECIPES, *HEADLINES]))
    return RECIPES[name]
