"""All settings, as they were saved."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from zoo.report.sections.section import Section


@dataclasses.dataclass(frozen=True, eq=False)
class RecipeSection(Section):
    """A configuration to unfold.

    Args:
        file: Its name.
        text: What is in it.
    """

    key: ClassVar[str] = "recipe"
    heading: ClassVar[str] = "Recipe"
    file: str
    text: str


def recipe_section(file: str, config: Mapping[str, Any]) -> RecipeSection:
    """A configuration file, laid out to be read."""
    return RecipeSection(file, json.dumps(config, indent=2, ensure_ascii=False))
