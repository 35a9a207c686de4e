"""Changes to a recipe from the command line: `--set key=value`."""

import argparse
import ast
import contextlib
import dataclasses
import re
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from keras_dml.utils.deprecation import warn_renamed
from keras_dml.utils.suggestions import unknown_name
from zoo.recipe import DAS, PDDM, RENAMED, Options, Recipe


def add_override_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--weights` and `--set`, which `overridden` follows."""
    parser.add_argument("--weights", help='what the backbone starts from: "imagenet" or a weights file')
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a field of the recipe (learning_rate=3e-4, das.top_k=8) or of one of its arms "
        "(arms.das.das.top_k=8); may be repeated",
    )


def overridden(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """The recipe as the arguments of `add_override_arguments` have it.

    Raises:
        ValueError: As `override`.
    """
    if options.weights is not None:
        recipe = dataclasses.replace(recipe, weights=options.weights)
    return override(recipe, options.set)


def override(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Applies `key=value` assignments, in order.

    Warns when arms that set a field themselves keep their own value, when another `input_size` leaves `resize` as it
    is, so that another part of a test image is seen, and when `lr_milestones` do not fit another number of `epochs`.

    Args:
        recipe: The recipe to start from.
        assignments: `field=value`, or `field.key=value` inside `das`, `loss_args` and the like. `arms=value` replaces
            all arms, `arms.ARM=value` the settings of one, and `arms.ARM.field=value` or `arms.ARM.field.key=value`
            changes one of its settings, from what the arm trains with. Values are Python literals; what is not one is
            taken as text.

    Raises:
        ValueError: For a key or an arm that does not exist (naming the nearest), a value of the wrong type or length,
            or a field that every arm sets itself.
    """
    before = recipe
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set takes key=value. Received: {assignment!r}")
        key, value = _current(key.strip()), _literal(text.strip())
        if key.partition(".")[0] == "arms":
            recipe = _assign_arms(recipe, key, value)
        else:
            recipe = _assign(recipe, key, key.split("."), value)
            _refuse_without_effect(recipe, key)

    def chosen(field: str) -> bool:
        return any(re.search(rf"\b{field}\b", assignment) for assignment in assignments)

    if not chosen("resize"):
        _warn_of_another_crop(before, recipe)
    _warn_of_milestones(before, recipe, chosen("lr_milestones"))
    return recipe


def _current(key: str) -> str:
    """`key` with today's names of fields."""
    names = key.split(".")
    # arms.ARM.field, or field
    place = -1 if names[0] == "arms" else 0
    current = RENAMED.get(names[place], names[place])
    if current != names[place] and (names[0] != "arms" or len(names) > 2):
        warn_renamed(f"--set {names[place]}", f"--set {current}", stacklevel=4)
        names[place] = current
    return ".".join(names)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _refuse_without_effect(recipe: Recipe, key: str) -> None:
    """Raises if every arm overrides this field; warns about arms that do."""
    field, _, inside = key.partition(".")
    keeping = {arm: options[field] for arm, options in recipe.arms.items() if field in options}
    advice = f"Set arms.ARM.{key} to change an arm."
    if keeping and len(keeping) == len(recipe.arms):
        raise ValueError(f"--set {key} would change nothing: every arm sets `{field}` itself. {advice}")
    # Arms without DAS are meant to be without; its settings do not concern them.
    alike = (None,) if inside else (getattr(recipe, field),)
    surprising = [arm for arm, value in keeping.items() if value not in alike]
    if surprising:
        arms = ", ".join(surprising)
        warnings.warn(
            f"--set {key} leaves arms that set `{field}` themselves as they are: {arms}. {advice}", stacklevel=3
        )


def _warn_of_another_crop(before: Recipe, recipe: Recipe) -> None:
    """Names the arms whose `input_size` is another than `before`, but whose test images are resized as before."""
    found: dict[str, list[str]] = {}
    for arm, options in recipe.arms.items():
        old, new = before.arm(arm) if arm in before.arms else before, recipe.arm(arm)
        if new.resize is None or new.resize != old.resize or new.input_size == old.input_size:
            continue
        key = f"arms.{arm}.resize" if {"input_size", "resize"} & set(options) else "resize"
        text = (
            f"Test images are still resized to resize={new.resize}, of which the middle input_size={new.input_size} is "
            f"seen, {new.input_size / new.resize:.0%} of the short side instead of {old.input_size / new.resize:.0%}. "
            f"To see as much as before, add --set {key}={round(new.resize * new.input_size / old.input_size)}"
        )
        found.setdefault(text, []).append(arm)
    for text, arms in found.items():
        warnings.warn(f"{text} (arms: {', '.join(arms)})", stacklevel=3)


def _warn_of_milestones(before: Recipe, recipe: Recipe, chosen: bool) -> None:
    """Names the arms with other `epochs` or `lr_milestones` than `before` that do not fit each other.

    Args:
        before: The recipe as it was.
        recipe: The recipe as it is now.
        chosen: Whether the lr_milestones are the user's choice, which may be what they were.
    """
    found: dict[str, list[str]] = {}
    for arm, options in recipe.arms.items():
        old, new = before.arm(arm) if arm in before.arms else before, recipe.arm(arm)
        if (new.epochs, new.lr_milestones) == (old.epochs, old.lr_milestones):
            continue
        kept = new.lr_milestones == old.lr_milestones and not chosen
        late = tuple(epoch for epoch in new.lr_milestones if epoch >= new.epochs)
        if late:
            text = f"The run has epochs={new.epochs}, and ends before the learning rate falls at lr_milestones={late}."
        elif kept and new.lr_milestones:
            text = (
                f"The run has epochs={new.epochs}, and the learning rate still falls at "
                f"lr_milestones={new.lr_milestones}, which were chosen for epochs={old.epochs}."
            )
        else:
            continue
        if kept:
            key = f"arms.{arm}.lr_milestones" if {"epochs", "lr_milestones"} & set(options) else "lr_milestones"
            scaled = {round(epoch * new.epochs / old.epochs) for epoch in new.lr_milestones} - {0, new.epochs}
            text = f'{text} To scale them, add --set "{key}={tuple(sorted(scaled))}"'
        found.setdefault(text, []).append(arm)
    for text, arms in found.items():
        warnings.warn(f"{text} (arms: {', '.join(arms)})", stacklevel=3)


def _assign_arms(recipe: Recipe, key: str, value: Any) -> Recipe:
    """`recipe` with `arms`, `arms.ARM` or `arms.ARM.field...` assigned; names of arms may hold dots."""
    inside = key.partition(".")[2]
    if not inside:
        arms = _checked(key, value, Options)
        recipe = dataclasses.replace(recipe, arms={str(arm): {} for arm in arms})
        for arm, options in arms.items():
            recipe = _assign_arms(recipe, f"{key}.{arm}", options)
        return recipe
    found = [arm for arm in recipe.arms if f"{inside}.".startswith(f"{arm}.")]
    if not found:
        raise ValueError(unknown_name(f"arm in --set {key}:", inside.partition(".")[0], recipe.arms))
    arm = max(found, key=len)
    if arm == inside:
        recipe = dataclasses.replace(recipe, arms={**recipe.arms, arm: {}})
        for field, item in _checked(key, value, Options).items():
            recipe = _assign_arms(recipe, f"{key}.{field}", item)
        return recipe
    path = inside.removeprefix(f"{arm}.").split(".")
    setting = getattr(_assign(recipe.arm(arm), key, path, value), path[0])
    return dataclasses.replace(recipe, arms={**recipe.arms, arm: {**recipe.arms[arm], path[0]: setting}})


def _assign(owner: Any, full_key: str, path: Sequence[str], value: Any) -> Any:
    name, *rest = path
    if not isinstance(owner, Mapping | Recipe | DAS | PDDM):
        raise ValueError(f"--set {full_key}: there is no {name!r}, as {owner!r} has no keys of its own")
    if isinstance(owner, Mapping):
        return {**owner, name: _assign(owner.get(name, {}), full_key, rest, value) if rest else value}
    fields = {field.name: field.type for field in dataclasses.fields(owner)}
    if name not in fields:
        raise ValueError(unknown_name(f"key in --set {full_key}:", name, fields))
    if rest:
        inner = getattr(owner, name)
        if inner is None and name in ("das", "pddm"):
            inner = DAS() if name == "das" else PDDM()
        value = _assign(inner, full_key, rest, value)
    else:
        value = _checked(full_key, value, typing.get_type_hints(type(owner))[name])
    return dataclasses.replace(owner, **{name: value})


def _checked(key: str, value: Any, expected: Any) -> Any:
    """`value` as the annotated type `expected`, where that is possible without loss."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [option for option in arguments if option is not type(None)]
        for option in options[:-1]:
            with contextlib.suppress(ValueError):
                return _checked(key, value, option)
        return _checked(key, value, options[-1])
    if expected is Any:
        return value
    if origin is tuple and not isinstance(value, str):
        items = value if isinstance(value, tuple | list) else (value,)
        types_of_items = (arguments[0],) * len(items) if arguments[-1] is Ellipsis else arguments
        if len(items) != len(types_of_items):
            names = ", ".join(one.__name__ for one in arguments)
            raise ValueError(f"--set {key}: expected {len(arguments)} values ({names}). Received: {value!r}")
        return tuple(_checked(key, item, one) for item, one in zip(items, types_of_items, strict=True))
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = origin or expected
    if isinstance(value, wanted) and not (isinstance(value, bool) and expected is not bool):
        return value
    name = getattr(expected, "__name__", str(expected))
    raise ValueError(f"--set {key}: expected {name}. Received: {value!r}")
