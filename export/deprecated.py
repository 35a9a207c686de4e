"""Older names and arguments of the package, kept for one version."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from export.build_options import BuildOptions
from export.index.engine import current_kind, engine_of_kind
from export.index.spec import IndexSpec
from keras_dml.utils.deprecation import rename_arguments, warn_renamed
from keras_dml.utils.progress import SILENT, Progress

P = ParamSpec("P")
R = TypeVar("R")

_INDEX_ARGUMENTS = ("settings", "metric", "recall", "calibrate")
_OPTIONS = {
    "queries": "queries",
    "default_k": "default_k",
    "source": "source",
    "cache": "cache",
    "batch_size": "batch_size",
    "with_thumbnails": "thumbnails",
    "keep": "keep",
    "similarity": "pair_scorer",
    "shortlist": "shortlist",
    "pictures": "pictures",
}
_NEW_PLACES = {
    **{name: f"`index=IndexSpec({name}=...)`" for name in _INDEX_ARGUMENTS},
    "settings": "`index`",
    **{old: f"`options=BuildOptions({new}=...)`" for old, new in _OPTIONS.items()},
}
# From the function that warns to the caller of the function with old arguments.
_STACKLEVEL = 4


def IndexSettings(kind: str = "brute_force", metric: str = "cosine", **options: Any) -> IndexSpec:
    """The older form of `IndexSpec`: an index with these settings, not calibrated. Give `IndexSpec` instead."""
    warn_renamed("export.IndexSettings", "export.IndexSpec")
    int8 = options.pop("int8", False)
    kind = current_kind(kind)
    # What is missing or wrong was an error here.
    settings = engine_of_kind(kind).settings_class(kind, metric, int8, **options)
    given = {name: getattr(settings, name) for name in engine_of_kind(kind).option_names}
    return IndexSpec(kind, metric, calibrate=False, int8=int8, options=given)


def renamed_arguments(renamed: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator for a function that still takes keyword arguments under their old names.

    Args:
        renamed: Old name -> new name.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(*args, **rename_arguments(function.__name__, kwargs, renamed))

        return wrapper

    return decorate


def old_build_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator for `build_model`: what is now in `index`, `options` and `progress` is taken one by one as well."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = _with_progress(kwargs, function.__name__)
        for name in given.keys() & _NEW_PLACES.keys():
            warn_renamed(f"`{name}` of build_model", _NEW_PLACES[name], _STACKLEVEL - 1)
        index = {name: given.pop(name) for name in _INDEX_ARGUMENTS if name in given}
        if index:
            _refuse_both(given, "index", index)
            settings = index.pop("settings", None)
            if settings is not None:
                # Its own metric counted.
                index.pop("metric", None)
            changes = {name: value for name, value in index.items() if value is not None}
            given["index"] = dataclasses.replace(settings or IndexSpec(), **changes)
        options = {old: given.pop(old) for old in _OPTIONS if old in given}
        if options:
            _refuse_both(given, "options", options)
            given["options"] = BuildOptions(**{_OPTIONS[old]: value for old, value in options.items()})
        return function(*args, **given)

    return wrapper


def old_progress_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator for a function with `progress`: callables `report` and `progress` are taken as well."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **_with_progress(kwargs, function.__name__))

    return wrapper


class CallableProgress(Progress):
    """Tells callables of the older kind.

    Args:
        report: Called with a line of text.
        progress: Called with a stage's name, the items done and their total.
    """

    def __init__(self, report: Callable[[str], None] | None, progress: Callable[[str, int, int], None] | None) -> None:
        self._report = report
        self._progress = progress

    def message(self, text: str) -> None:
        if self._report is not None:
            self._report(text)

    def advance(self, stage: str, done: float, total: float, note: str = "") -> None:
        if self._progress is not None:
            self._progress(stage, int(done), int(total))


def _with_progress(arguments: Mapping[str, Any], owner: str) -> dict[str, Any]:
    given = dict(arguments)
    report = given.pop("report", None)
    progress = given.get("progress", SILENT)
    if report is None and isinstance(progress, Progress):
        return given
    warn_renamed(f"A function as `report` or `progress` of {owner}", "a `Progress`", _STACKLEVEL)
    if isinstance(progress, Progress):
        given["progress"] = CallableProgress(report, progress.advance)
    else:
        given["progress"] = CallableProgress(report, progress)
    return given


def _refuse_both(given: Mapping[str, Any], name: str, old: Iterable[str]) -> None:
    if name in given:
        raise TypeError(f"Pass `{name}` without the older arguments. Received: {', '.join(old)}")
