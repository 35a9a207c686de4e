"""Old public names, kept for one version."""

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

REMOVAL = "It will go with the version after this one"


def warn_renamed(old: str, new: str, stacklevel: int = 3) -> None:
    """Warns, at the caller's caller, that `old` is now called `new`."""
    warnings.warn(f"{old} is now called {new}. {REMOVAL}.", DeprecationWarning, stacklevel=stacklevel)


def rename_arguments(owner: str, given: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """The keyword arguments in `given` under their new names.

    Args:
        owner: The class or function they were given to, for the warning.
        given: Keyword arguments, old and new names mixed.
        renamed: Old name -> new name.

    Raises:
        TypeError: An argument is given under both names.
    """
    result: dict[str, Any] = {}
    for name, value in given.items():
        current = renamed.get(name, name)
        if current in result or (current != name and current in given):
            raise TypeError(f"{owner} got `{current}` twice, once as the older `{name}`")
        if current != name:
            warn_renamed(f"`{name}` of {owner}", f"`{current}`", stacklevel=4)
        result[current] = value
    return result


def renamed_attributes(module: str, renamed: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that still finds its old names.

    Args:
        module: `__name__` of the module.
        renamed: Old name -> new name, both attributes of the module.
    """

    def __getattr__(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", f"{module}.{renamed[name]}")
        return getattr(sys.modules[module], renamed[name])

    return __getattr__
