"""Functions by name, each registered beside its definition."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from keras_dml.utils.suggestions import unknown_name

F = TypeVar("F", bound=Callable[..., Any])


class FunctionRegistry(Mapping[str, F]):
    """Names and their functions; a mapping that iterates over the names in order.

    Args:
        kind: What the functions are for, for error texts, as in "benchmark".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._functions: dict[str, F] = {}

    def register(self, name: str, function: F) -> None:
        """Registers `function` as `name`.

        Raises:
            ValueError: The name belongs to another function. A function that is defined again, as when a notebook cell
                runs twice, replaces itself.
        """
        known = self._functions.get(name)
        if known is not None and _place(known) != _place(function):
            raise ValueError(
                f"The {self.kind} name {name!r} is taken by {_place(known)}. Received: {_place(function)}. Choose "
                "another name."
            )
        self._functions[name] = function

    def __getitem__(self, name: str) -> F:
        """The function registered as `name`.

        Raises:
            KeyError: There is none; the text lists the known names, the nearest first.
        """
        if name not in self._functions:
            raise KeyError(unknown_name(self.kind, name, self._functions))
        return self._functions[name]

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._functions))

    def __len__(self) -> int:
        return len(self._functions)


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
