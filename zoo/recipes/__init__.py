"""The recipes, by name."""

from keras_dml.utils.suggestions import unknown_name
from zoo.recipe import Recipe
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
        CUB200_PDDM,
        CUB200_CROPPED_PDDM,
        CARS196_PDDM,
        CARS196_CROPPED_PDDM,
    )
}


def get(name: str) -> Recipe:
    """The recipe called `name`; an unknown name suggests the nearest."""
    if name not in RECIPES:
        raise ValueError(unknown_name("recipe", name, RECIPES))
    return RECIPES[name]
