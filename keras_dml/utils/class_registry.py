"""Classes by name, each registered beside its definition."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from keras_dml.utils.suggestions import unknown_name

T = TypeVar("T")
C = TypeVar("C", bound=type)


class ClassRegistry(Generic[T]):
    """Names and their classes; iterates over the names in order.

    Args:
        kind: What the classes are, for error texts, as in "loss".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """A class decorator that registers the class as `name`.

        Raises:
            ValueError: When it is applied, if the name belongs to another class. A class that is defined again, as
                when a notebook cell runs twice, replaces itself.
        """

        def decorate(cls: C) -> C:
            known = self._classes.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(
                    f"The {self.kind} name {name!r} is taken by {known.__module__}.{known.__qualname__}. "
                    f"Received: {cls.__module__}.{cls.__qualname__}. Choose another name."
                )
            self._classes[name] = cls
            return cls

        return decorate

    def __getitem__(self, name: str) -> type[T]:
        """The class registered as `name`.

        Raises:
            ValueError: If there is none; the text lists the known names, the nearest first.
        """
        if name not in self._classes:
            raise ValueError(unknown_name(self.kind, name, self._classes))
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __len__(self) -> int:
        return len(self._classes)

    def defined_in(self, package: str) -> dict[str, type[T]]:
        """The registered classes that a module of `package` defines, by class name."""
        inside = f"{package}."
        return {cls.__name__: cls for cls in self._classes.values() if cls.__module__.startswith(inside)}


def import_modules(package: str) -> None:
    """Imports every module of a package, which registers what they define."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
