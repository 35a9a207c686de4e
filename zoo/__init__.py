"""Recipes, measured records, `python -m zoo.reproduce`, and encoders trained from scratch: `zoo.load("digits")`.

Names are imported when first used, so that `import zoo` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.pretrained import Pretrained, load

__all__ = ["Pretrained", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    return getattr(importlib.import_module("zoo.pretrained"), name)
