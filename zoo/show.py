"""A recipe read whole: every setting of every arm, and the file that sets it."""

import dataclasses

from zoo.recipe import SHARED, Recipe

DEFAULT = "default (zoo/recipe.py)"
COMMAND_LINE = "command line"
HIDDEN = ("arms",)
"""Fields that the listing is made of, rather than settings of a training."""

Row = tuple[str, str, str]


def resolved(written: Recipe, recipe: Recipe) -> str:
    """Every setting of a recipe: those that all arms share, then the others arm by arm.

    Args:
        written: The recipe as the zoo has it.
        recipe: The same with what the command line changes.
    """
    arms = {arm: _rows(written, recipe, arm) for arm in recipe.arms}
    everywhere = [row for row in next(iter(arms.values())) if all(row in rows for rows in arms.values())]
    blocks = [("every arm", everywhere)]
    blocks += [(f"arm {arm}", [row for row in rows if row not in everywhere]) for arm, rows in arms.items()]
    widths = [max(len(row[column]) for _, rows in blocks for row in rows) for column in (0, 1)]
    # One long value must not push the last column off the screen.
    widths[1] = min(widths[1], 48)
    lines = [f"{recipe.name}: {recipe.summary}"]
    for title, rows in blocks:
        lines += ["", f"{title}:"]
        lines += [f"  {name:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for name, value, origin in rows]
        if not rows:
            lines.append("  nothing but that")
    return "\n".join(lines)


def _rows(written: Recipe, recipe: Recipe, arm: str) -> list[Row]:
    settings = recipe.arm(arm)
    rows: list[Row] = []
    for field in dataclasses.fields(Recipe):
        if field.name in HIDDEN:
            continue
        origin = _origin(written, recipe, arm, field.name)
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            before = getattr(written.arm(arm) if arm in written.arms else written, field.name)
            for part in dataclasses.fields(value):
                one = getattr(value, part.name)
                here = origin
                if one == part.default:
                    here = DEFAULT
                elif origin == COMMAND_LINE and before is not None and getattr(before, part.name) == one:
                    # The rest of what the command line changes one part of.
                    here = _origin(written, written, arm, field.name)
                rows.append((f"{field.name}.{part.name}", repr(one), here))
        elif isinstance(value, dict) and value and field.name != "published":
            rows += [(f"{field.name}.{key}", repr(one), origin) for key, one in value.items()]
        else:
            rows.append((field.name, repr(value), origin))
    return rows


def _origin(written: Recipe, recipe: Recipe, arm: str, name: str) -> str:
    """Who says what an arm's setting is."""
    by_arm = name not in SHARED and name in recipe.arms[arm]
    if by_arm:
        before = written.arms.get(arm, {})
        same = name in before and before[name] == recipe.arms[arm][name]
        return f"{written.set_by['arms']}, arm {arm}" if same else COMMAND_LINE
    if getattr(recipe, name) != getattr(written, name):
        return COMMAND_LINE
    return written.set_by.get(name, DEFAULT)
