"""The records in zoo/records are of the recipes that ship, and say nothing about whose machine made them."""

import copy
import dataclasses
import re

import pytest

from keras_dml.utils.files import as_json, read_json
from zoo import recipes
from zoo.files import RECORDS
from zoo.recipe import settings_as_saved
from zoo.record import RECORD_FORMAT, changed_settings

ABSOLUTE_PATH = re.compile(r"(?<![\w.])/\w|[A-Za-z]:\\|~[/\w]|\\\\\w|file:")


def texts(value):
    """All strings in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def faults(record):
    """What is wrong with a record: fields of the recipe that are not the zoo's, unknown arms, paths."""
    if record["format"] != RECORD_FORMAT:
        return [f"format {record['format']}"]
    shipped = as_json(recipes.get(record["name"]).to_dict())
    settings = as_json(settings_as_saved(record["recipe"]))
    free = {"seeds", "weights", *record["changed_settings"]}
    found = [
        f"recipe.{name}"
        for name in sorted({*shipped, *settings} - free)
        if name not in shipped or name not in settings or settings[name] != shipped[name]
    ]
    found += [f"setting {name}" for name in record["changed_settings"] if name not in shipped]
    found += [f"arm {arm}" for arm in record["arms"] if arm not in shipped["arms"]]
    found += [] if record["arms"] else ["no arms"]
    return found + [f"path {text}" for text in texts(record) if ABSOLUTE_PATH.search(text)]


@pytest.fixture
def record():
    """A record as one is made after `--set epochs=7 --weights FILE --seed 4`."""
    recipe = dataclasses.replace(recipes.get("cars196"), epochs=7, seeds=(4,))
    return as_json(
        {
            "format": RECORD_FORMAT,
            "name": recipe.name,
            "recipe": {**recipe.to_dict(), "weights": {"file": "resnet50.pth", "sha256": "0" * 64}},
            "changed_settings": changed_settings(recipe),
            "arms": {arm: {"last": {"epoch": 7, "recall@1": [0.5]}} for arm in recipe.arms},
            "machine": [{"architecture": "x86_64", "cores": 2, "accelerators": []}],
        }
    )


# A loop, as there may be no records at all: then the tests below show that faults would be found.
def test_records_are_of_the_recipes_that_ship():
    found = {path.name: faults(read_json(path)) for path in sorted(RECORDS.glob("*.json"))}
    assert {name: each for name, each in found.items() if each} == {}
    misnamed = [path.name for path in RECORDS.glob("*.json") if read_json(path)["name"] != path.stem]
    assert misnamed == []


def test_a_new_record_has_no_faults(record):
    assert record["changed_settings"] == ["epochs"]
    assert faults(record) == []


@pytest.mark.parametrize(
    ("keys", "value", "fault"),
    [
        (("format",), RECORD_FORMAT + 1, f"format {RECORD_FORMAT + 1}"),
        (("changed_settings",), [], "recipe.epochs"),
        (("changed_settings",), ["epochs", "epoch"], "setting epoch"),
        (("recipe", "learning_rate"), 1.0, "recipe.learning_rate"),
        (("recipe", "das", "top_k"), 5, "recipe.das"),
        (("recipe", "arms", "das", "published", "metrics", "recall@1"), 99.0, "recipe.arms"),
        (("recipe", "forgotten"), None, "recipe.forgotten"),
        (("arms", "dsa"), {}, "arm dsa"),
        (("arms",), {}, "no arms"),
        (("recipe", "weights"), "/home/me/resnet50.pth", "path /home/me/resnet50.pth"),
        (("recipe", "weights"), r"C:\me\resnet50.pth", r"path C:\me\resnet50.pth"),
        (("machine", 0, "cache"), "~/.keras", "path ~/.keras"),
        (("machine", 0, "cache"), "in '/tmp/x'", "path in '/tmp/x'"),
    ],
)
def test_faults_are_found(record, keys, value, fault):
    spoilt = copy.deepcopy(record)
    *outer, last = keys
    place = spoilt
    for key in outer:
        place = place[key]
    place[last] = value
    assert faults(spoilt) == [fault]


def test_every_field_of_the_recipe_is_there(record):
    del record["recipe"]["loss"]
    assert faults(record) == ["recipe.loss"]
