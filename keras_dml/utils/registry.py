"""Classes and functions by name, each registered beside its definition."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from keras_dml.utils.suggestions import unknown_name

T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., Any])
V = TypeVar("V", bound=Callable[..., Any])


class Registry(Generic[V]):
    """Names and what they stand for; iterates over the names in order.

    Args:
        kind: What they are names of, for error texts, as in "loss".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, V] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """A decorator that registers a class or function as `name`.

        Raises:
            ValueError: When it is applied, if the name belongs to another. What is defined again, as when a notebook
                cell runs twice, replaces itself.
        """

        def decorate(entry: C) -> C:
            known = self._entries.get(name)
            if known is not None and _place(known) != _place(entry):
                raise ValueError(
                    f"The {self.kind} name {name!r} is taken by {_place(known)}. Received: {_place(entry)}. Choose "
                    "another name."
                )
            self._entries[name] = entry  # type: ignore[assignment]
            return entry

        return decorate

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


class ClassRegistry(Registry[type[T]]):
    """Names and their classes."""

    def __getitem__(self, name: str) -> type[T]:
        """The class registered as `name`.

        Raises:
            ValueError: There is none; the text lists the known names, the nearest first.
        """
        if name not in self._entries:
            raise ValueError(unknown_name(self.kind, name, self._entries))
        return self._entries[name]

    def defined_in(self, package: str) -> dict[str, type[T]]:
        """The registered classes that a module of `package` defines, by class name."""
        inside = f"{package}."
        return {cls.__name__: cls for cls in self._entries.values() if cls.__module__.startswith(inside)}


class FunctionRegistry(Registry[V], Mapping[str, V]):
    """Names and their functions, as a mapping."""

    def __getitem__(self, name: str) -> V:
        """The function registered as `name`.

        Raises:
            KeyError: There is none; the text lists the known names, the nearest first.
        """
        if name not in self._entries:
            raise KeyError(unknown_name(self.kind, name, self._entries))
        return self._entries[name]


def import_modules(package: str) -> None:
    """Imports every module of a package, which registers what they define."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def _place(entry: Callable[..., Any]) -> str:
    return f"{entry.__module__}.{entry.__qualname__}"
