"""What the export needs of an index engine, and the engines there are."""

import abc
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from keras_dml.utils.deprecation import warn_renamed
from keras_dml.utils.registry import ClassRegistry, import_modules

if TYPE_CHECKING:
    from export.graph.searcher import Searcher
    from export.index.spec import IndexSpec

EXACT = "exact"
"""The engine of the exact twin, and of galleries without items."""


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """How an index is built and searched, every choice made. Engines add fields of their own: their options.

    Args:
        kind: One of the engine's kinds.
        metric: One of `export.index.spec.METRICS`.
        int8: Whether vectors are kept as 8-bit integers.
    """

    kind: str
    metric: str = "cosine"
    int8: bool = False


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Growing values of one option, of which calibration takes the least that reaches the recall.

    Args:
        option: Field of the engine's settings.
        values: In the order of growing effort.
        if_short: True climbs this ladder and those after it only where the recall is not reached before.
    """

    option: str
    values: Sequence[int]
    if_short: bool = False

    def step(self, settings: EngineSettings, number: int) -> EngineSettings:
        """The settings with value `number` of the ladder."""
        changed: dict[str, Any] = {self.option: self.values[number]}
        return dataclasses.replace(settings, **changed)


class Engine(abc.ABC):
    """One way to index and search a gallery, stateless.

    Modules of engines import TensorFlow and libraries of their own in the methods that need them: the command line asks
    every engine for its kinds and options.
    """

    name: ClassVar[str]
    """What the manifest calls the engine."""
    kinds: ClassVar[tuple[str, ...]]
    """Kinds of index, unique among all engines."""
    renamed_kinds: ClassVar[Mapping[str, str]] = {}
    """Older kind -> kind."""
    settings_class: ClassVar[type[EngineSettings]] = EngineSettings
    options: ClassVar[Mapping[str, str]] = {}
    """Positive integers among the fields of `settings_class` -> what the command line's help says of them."""
    effort_options: ClassVar[frozenset[str]] = frozenset()
    """Options that calibration chooses where they are not given."""
    supports_int8: ClassVar[bool] = False
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions beyond TensorFlow's whose versions the manifest records."""
    stock_tensorflow: ClassVar[bool] = True
    """Whether TensorFlow can load the SavedModel without `register`."""
    preference: ClassVar[int] = 0
    """The engine with the highest is taken where the caller names no kind."""

    @property
    def option_names(self) -> tuple[str, ...]:
        """The fields that `settings_class` adds to `EngineSettings`."""
        common = {field.name for field in dataclasses.fields(EngineSettings)}
        return tuple(field.name for field in dataclasses.fields(self.settings_class) if field.name not in common)

    def register(self) -> None:  # noqa: B027  nothing to register by default
        """Makes TensorFlow ready to load a SavedModel with an index of this engine.

        Raises:
            RuntimeError: A library is missing or does not fit the installed TensorFlow.
        """

    @abc.abstractmethod
    def choose(self, spec: "IndexSpec", size: int, dim: int) -> EngineSettings:
        """Settings for a gallery of `size` rows of `dim` floats, before calibration; `spec`'s own come first.

        Raises:
            ValueError: Options that do not fit each other.
        """

    def check(self, settings: EngineSettings, size: int) -> None:  # noqa: B027  everything fits by default
        """Raises a ValueError where a gallery of `size` rows, at least 1, cannot be indexed with these settings."""

    def fit(self, settings: EngineSettings, size: int) -> EngineSettings:
        """The settings for `size` rows, fewer than they were chosen for."""
        return settings

    def is_exact(self, settings: EngineSettings) -> bool:
        """Whether every answer is exact, so that there is no recall to measure."""
        return False

    def ladders(self, settings: EngineSettings, size: int) -> Sequence[Ladder]:
        """What calibration may change, in this order.

        Args:
            settings: What calibration begins with.
            size: Rows of the index that is searched.
        """
        return ()

    @abc.abstractmethod
    def build(self, rows: np.ndarray, settings: EngineSettings) -> Any:
        """Builds an index.

        Args:
            rows: `(n, d)` finite float32, n at least 1, normalized where the metric is cosine.
            settings: The settings.

        Returns:
            What `search` and `searcher` take.
        """

    @abc.abstractmethod
    def search(self, index: Any, queries: np.ndarray, k: int, settings: EngineSettings) -> np.ndarray:
        """Searches for calibration, outside the graph.

        Args:
            index: What `build` returned.
            queries: `(m, d)` float32, normalized where the metric is cosine.
            k: Neighbors, at most the number of rows.
            settings: Search effort; may differ from that of `build`.

        Returns:
            `(m, k)` row numbers, -1 where none was found.
        """

    @abc.abstractmethod
    def searcher(self, index: Any, settings: EngineSettings, scratch: pathlib.Path) -> "Searcher":
        """The search as it is traced into the SavedModel.

        Args:
            index: What `build` returned.
            settings: Calibrated settings.
            scratch: A folder for files, deleted once the SavedModel is saved.
        """

    def describe(self, settings: EngineSettings) -> str:
        """The settings that matter, in a few words."""
        return f"{settings.kind.replace('_', ' ')}, {settings.metric}"

    def to_manifest(self, settings: EngineSettings) -> dict[str, Any]:
        """What the manifest keeps, JSON-able: enough for `from_manifest`."""
        return {"engine": self.name, **dataclasses.asdict(settings), "stock_tensorflow": self.stock_tensorflow}

    def from_manifest(self, entry: Mapping[str, Any]) -> EngineSettings:
        """The settings in a manifest's entry about the index."""
        names = [field.name for field in dataclasses.fields(self.settings_class)]
        values = {name: entry[name] for name in names if name in entry}
        return self.settings_class(**{**values, "kind": self.renamed_kinds.get(entry["kind"], entry["kind"])})

    def wrote(self, entry: Mapping[str, Any]) -> bool:
        """Whether a manifest's entry about the index is this engine's."""
        return entry.get("engine") == self.name


_ENGINES: ClassRegistry[Engine] = ClassRegistry("index engine")
_EngineClass = TypeVar("_EngineClass", bound=type[Engine])


def register_engine(engine: _EngineClass) -> _EngineClass:
    """A class decorator that makes an engine known under its `name`."""
    return _ENGINES.register(engine.name)(engine)


def engines() -> tuple[Engine, ...]:
    """Every engine in this package, the preferred first."""
    import_modules("export.index")
    found = [_ENGINES[name]() for name in _ENGINES]
    return tuple(sorted(found, key=lambda engine: (-engine.preference, engine.name)))


def engine_named(name: str) -> Engine:
    """The engine of this name.

    Raises:
        ValueError: There is none.
    """
    import_modules("export.index")
    return _ENGINES[name]()


def kinds() -> tuple[str, ...]:
    """The kinds of index of all engines."""
    return tuple(kind for engine in engines() for kind in engine.kinds)


def current_kind(kind: str) -> str:
    """The kind under its present name; an older one gives a DeprecationWarning."""
    for engine in engines():
        if kind in engine.renamed_kinds:
            warn_renamed(f"The index kind {kind!r}", repr(engine.renamed_kinds[kind]), stacklevel=4)
            return engine.renamed_kinds[kind]
    return kind


def engine_of_kind(kind: str) -> Engine:
    """The engine that builds indexes of this kind.

    Raises:
        ValueError: There is none.
    """
    for engine in engines():
        if kind in engine.kinds:
            return engine
    raise ValueError(f"`kind` must be one of {', '.join(kinds())}. Received: kind={kind!r}")


def engine_of_manifest(entry: Mapping[str, Any]) -> Engine:
    """The engine that wrote a manifest's entry about the index.

    Raises:
        ValueError: This release does not have it.
    """
    for engine in engines():
        if engine.wrote(entry):
            return engine
    if "engine" in entry:
        raise ValueError(
            f"The index was written by the engine {entry['engine']!r}, which this release does not have. Load the "
            "model's exact twin, which needs only TensorFlow: export.load(path, exact=True)"
        )
    # Manifests of format 1 name no engine; those of galleries without items are searched by TensorFlow's own ops.
    return engine_named(EXACT)
