"""What DAS has to be compared with: arms that multiply the batch as it does, and add nothing else (`--controls`)."""

import dataclasses
import inspect

from zoo.recipe import Options, Recipe, derived

COPIES, WEIGHT = "_copies", "_weight"
WEIGHTS = ("positive_weight", "negative_weight")


def with_controls(recipe: Recipe) -> Recipe:
    """The recipe with two arms more for each of its arms with DAS.

    `ARM_copies` produces plain copies: nothing is scaled, nothing shifted. `ARM_weight` produces nothing and multiplies
    the loss's sums by T + 1, which is what T copies of every embedding do to them; only losses that sum inside a
    logarithm have such weights, so the others get no such arm. Neither has a published figure.

    Raises:
        ValueError: No arm of the recipe uses DAS.
    """
    arms: dict[str, Options] = {}
    for name, options in recipe.arms.items():
        arms[name] = options
        arm = recipe.arm(name)
        if arm.das is None or _copies_only(arm):
            continue
        copies = dataclasses.replace(arm.das, scale_range=(1.0, 1.0), shift_scale=0.0)
        arms[name + COPIES] = {**options, "das": copies, "published": {}}
        weighted = _weighted(arm.loss, arm.loss_args, 1.0 + arm.das.num_produced)
        if weighted is not None:
            arms[name + WEIGHT] = {
                **options,
                "das": None,
                "identity_aware": False,
                "auxiliary_weight": None,
                "loss_args": weighted,
                "published": {},
            }
    if len(arms) == len(recipe.arms):
        raise ValueError(
            f"--controls adds arms beside those with DAS, and no arm of {recipe.name!r} uses DAS. Leave it out, or "
            "take a recipe with such arms, see --list"
        )
    return derived(recipe, arms=arms)


def _copies_only(arm: Recipe) -> bool:
    assert arm.das is not None
    return tuple(arm.das.scale_range) == (1.0, 1.0) and arm.das.shift_scale == 0.0


def _weighted(loss: str, arguments: Options, factor: float) -> Options | None:
    """The arguments of a loss, or of the loss it wraps, with weights times `factor`; None where it takes none."""
    from keras_dml import losses

    if ":" in loss:
        return None
    if "loss" in arguments:
        inner = arguments["loss"]
        inner = {"name": inner} if isinstance(inner, str) else dict(inner)
        name = inner.pop("name")
        weighted = _weighted(name, inner, factor)
        return None if weighted is None else {**arguments, "loss": {"name": name, **weighted}}
    taken = [name for name in WEIGHTS if name in inspect.signature(losses.loss_class(loss)).parameters]
    if not taken:
        return None
    return {**arguments, **{name: factor * arguments.get(name, 1.0) for name in taken}}
