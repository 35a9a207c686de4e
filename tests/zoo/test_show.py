"""`--show`: a recipe read whole."""

import dataclasses

import pytest

from zoo import recipes, reproduce
from zoo.overrides import override
from zoo.recipe import Recipe
from zoo.show import COMMAND_LINE, DEFAULT, resolved


def blocks(text):
    """Lines of every block by its title, each as name -> (value, origin)."""
    result, current = {}, None
    for line in text.splitlines()[1:]:
        if line and not line.startswith(" "):
            current = result.setdefault(line.removesuffix(":"), {})
        elif line.strip():
            name, _, rest = line.strip().partition(" ")
            value, _, origin = rest.strip().rpartition("  ")
            current[name] = (value.strip(), origin)
    return result


def test_every_setting_is_shown_with_the_file_that_sets_it():
    recipe = override(recipes.get("cub200"), ["epochs=12", "lr_milestones=(8, 10)", "das.top_k=3"])
    shown = blocks(resolved(recipes.get("cub200"), recipe))
    every, baseline, das = shown["every arm"], shown["arm baseline"], shown["arm das"]
    assert every["epochs"] == ("12", COMMAND_LINE)
    assert every["l2_decay"] == ("0.0008", "zoo/recipes/cub200.py")
    assert every["learning_rate"] == ("1e-05", "zoo/recipes/das.py")
    assert every["threads"] == ("2", DEFAULT)
    assert every["optimizer_args.epsilon"] == ("1e-08", "zoo/recipes/das.py")
    assert baseline["das"] == ("None", "zoo/recipes/cub200.py, arm baseline")
    assert das["das.top_k"] == ("3", COMMAND_LINE)
    assert das["das.detach"] == ("True", DEFAULT)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_nothing_is_left_out(name):
    recipe = recipes.get(name)
    shown = blocks(resolved(recipe, recipe))
    fields = {field.name for field in dataclasses.fields(Recipe)} - {"arms"}
    for arm in recipe.arms:
        names = {key.partition(".")[0] for key in (*shown["every arm"], *shown[f"arm {arm}"])}
        assert names - {"nothing"} == fields
    for rows in shown.values():
        for value, origin in rows.values():
            assert origin == DEFAULT or origin.startswith("zoo/recipes/") or value == "but"


def test_the_command_shows_and_stops(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert reproduce.main(["digits", "--show", "--set", "arms.das.learning_rate=0.5"]) == 0
    shown = blocks(capsys.readouterr().out)
    assert shown["arm das"]["learning_rate"] == ("0.5", COMMAND_LINE)
    assert shown["arm baseline"]["learning_rate"] == ("0.0005", "zoo/recipes/digits.py")
    assert not list(tmp_path.iterdir())
    assert reproduce.main(["digts", "--show"]) == 2


def test_what_settings_were_called_before_still_works():
    with pytest.warns(DeprecationWarning, match="--set milestones is now called --set lr_milestones"):
        recipe = override(recipes.get("digits"), ["milestones=(1, 2)"])
    with pytest.warns(DeprecationWarning, match="decay"):
        recipe = override(recipe, ["decay=0.5"])
    with pytest.warns(DeprecationWarning, match="shipped"):
        recipe = override(recipe, ["shipped=baseline"])
    with pytest.warns(DeprecationWarning, match="milestones"):
        recipe = override(recipe, ["arms.das.milestones=(3,)"])
    assert (recipe.lr_milestones, recipe.lr_gamma, recipe.exported) == ((1, 2), 0.5, "baseline")
    assert recipe.arm("das").lr_milestones == (3,)
