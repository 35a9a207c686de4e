"""The recipes, by name."""

from keras_dml.utils.suggestions import unknown_name
from zoo.recipe import Recipe
from zoo.recipes.digits import DIGITS
from zoo.recipes.digits_losses import DIGITS_LOSSES

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (DIGITS, DIGITS_LOSSES)}


def get(name: str) -> Recipe:
    """The recipe called `name`; an unknown name suggests the nearest."""
    if name not in RECIPES:
        raise ValueError(unknown_name("recipe", name, RECIPES))
    return RECIPES[name]
