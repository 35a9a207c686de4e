"""The recipes, by name."""

from keras_dml.utils.suggestions import unknown_name
from zoo.recipe import Recipe
from zoo.recipes.cub200 import CUB200, CUB200_IBN, CUB200_LOSSES
from zoo.recipes.digits import DIGITS
from zoo.recipes.digits_losses import DIGITS_LOSSES
from zoo.recipes.digits_pddm import DIGITS_PDDM
from zoo.recipes.omniglot_pddm import OMNIGLOT_PDDM
from zoo.recipes.pddm import CARS196_CROPPED_PDDM, CARS196_PDDM, CUB200_CROPPED_PDDM, CUB200_PDDM

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        DIGITS,
        DIGITS_LOSSES,
        DIGITS_PDDM,
        OMNIGLOT_PDDM,
        CUB200,
        CUB200_IBN,
        CUB200_LOSSES,
        CUB200_PDDM,
        CUB200_CROPPED_PDDM,
        CARS196_PDDM,
        CARS196_CROPPED_PDDM,
    )
}

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
