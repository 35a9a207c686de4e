"""Old public names, kept for one version."""

import sys
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

G = TypeVar("G")

REMOVAL = "It will go with the version after this one"


_OURS = ("keras_dml", "zoo", "export")


def warn_renamed(old: str, new: str, stacklevel: int | None = None) -> None:
    """Warns that `old` is now called `new`.

    Args:
        old: The old name, as the user wrote it.
        new: The current one.
        stacklevel: As `warnings.warn` takes it. By default the warning points at the nearest code outside of this
            project, however many constructors lie between.
    """
    if stacklevel is None:
        frame, stacklevel = sys._getframe(1), 2
        while frame.f_back is not None and _package(frame) in _OURS:
            frame, stacklevel = frame.f_back, stacklevel + 1
    warnings.warn(f"{old} is now called {new}. {REMOVAL}.", DeprecationWarning, stacklevel=stacklevel)


def _package(frame: types.FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def renamed_property(old: str, new: str) -> property:
    """A read-only property that still finds an attribute of a Keras object under its old name.

    Keras reads every attribute of what it saves or loads, without meaning this one, so it gets no warning. That it
    finds the object under both names is what loads files whose weights lie under the old one.

    Args:
        old: The old name of the attribute.
        new: Its current one.
    """

    def find(self: Any) -> Any:
        if _package(sys._getframe(1)) != "keras":
            warn_renamed(f"`{old}` of {type(self).__name__}", f"`{new}`")
        return getattr(self, new)

    return property(find, doc=f"The old name of `{new}`.")


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
            warn_renamed(f"`{name}` of {owner}", f"`{current}`")
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


def grouped_arguments(owner: str, older: Mapping[str, Any], name: str, given: G | None, group: type[G]) -> G:
    """The value of an argument that takes the place of several older ones.

    Args:
        owner: The function, for the warning and the errors.
        older: The older keyword arguments that were given: fields of `group`.
        name: Name of the argument.
        given: Its value; None where it was left out.
        group: A dataclass with a default for every field.

    Raises:
        TypeError: An argument is no field of `group`, or is given beside its successor.
    """
    if not older:
        return group() if given is None else given
    unknown = sorted(set(older) - set(getattr(group, "__dataclass_fields__", ())))
    if unknown:
        raise TypeError(f"{owner}() got an unexpected keyword argument {unknown[0]!r}")
    if given is not None:
        raise TypeError(f"{owner}() got both `{name}` and {', '.join(f'`{each}`' for each in sorted(older))}")
    for each in older:
        warn_renamed(f"`{each}` of {owner}", f"`{name}={group.__name__}({each}=...)`")
    return group(**older)
