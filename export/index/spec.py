"""What an index shall do, whichever engine does it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from export.index.engine import Engine, current_kind, engine_of_kind, engine_of_manifest, engines

AUTO = "auto"
METRICS = ("cosine", "dot_product", "euclidean")
DEFAULT_RECALL = 0.95
# Dot products and squared distances are kept below this: engines may crash where they overflow.
MAX_SCORE = 1e30


@dataclasses.dataclass(frozen=True)
class IndexSpec:
    """What is wanted of an index.

    Args:
        kind: A kind of index that an engine offers (`export.index.engine.kinds()`), or `"auto"` for one chosen by the
            size of the gallery.
        metric: `"cosine"` (gallery and queries are normalized), `"dot_product"` or `"euclidean"`. Scores are larger for
            nearer items: the similarity, or minus the squared distance. None for how the encoder is evaluated
            (`ImageEncoder.metric`), and cosine without an encoder.
        recall: Recall at 10 to reach, against exact search, in (0, 1].
        calibrate: Whether search effort is raised and lowered to just reach `recall`. By default where `options` leave
            the effort open.
        int8: True keeps the vectors as 8-bit integers, a quarter of the memory; scores are then approximate too.
        options: Settings of the engine's own by name, such as the number of leaves of a tree. What is left out is
            chosen.

    Raises:
        ValueError: A value is out of range, or no engine offers it.
    """

    kind: str = AUTO
    metric: str | None = None
    recall: float = DEFAULT_RECALL
    calibrate: bool | None = None
    int8: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", dict(self.options))
        if self.kind != AUTO:
            object.__setattr__(self, "kind", current_kind(self.kind))
            engine_of_kind(self.kind)
        if self.metric not in (None, *METRICS):
            raise ValueError(f"`metric` must be one of {', '.join(METRICS)}. Received: metric={self.metric!r}")
        if not 0 < self.recall <= 1:
            raise ValueError(f"`recall` must lie in (0, 1]. Received: recall={self.recall}")
        self.engine()

    @property
    def chosen_metric(self) -> str:
        """`metric`, cosine where it is None."""
        return self.metric or METRICS[0]

    @property
    def is_open(self) -> bool:
        """Whether the index follows the size of the gallery, with nothing about it given by hand."""
        return self.kind == AUTO and not self.options and not self.int8

    @property
    def calibrates(self) -> bool:
        """Whether search effort is calibrated."""
        if self.calibrate is not None:
            return self.calibrate
        return not set(self.options) & self.engine().effort_options

    def engine(self) -> Engine:
        """The engine of `kind`; with `"auto"` the preferred one that takes the options.

        Raises:
            ValueError: No engine takes them.
        """
        candidates = engines() if self.kind == AUTO else (engine_of_kind(self.kind),)
        for engine in candidates:
            if set(self.options) <= set(engine.option_names) and (engine.supports_int8 or not self.int8):
                return engine
        if len(candidates) > 1:
            raise ValueError(
                f"No index engine takes these options together. Received: options={self.options}, int8={self.int8}"
            )
        unknown = [name for name in self.options if name not in candidates[0].option_names]
        if not unknown:
            raise ValueError(f"An index of kind {self.kind} keeps float32 vectors. Received: int8={self.int8}")
        raise ValueError(
            f"An index of kind {self.kind} takes the options {', '.join(candidates[0].option_names) or '(none)'}. "
            f"Received: {unknown[0]!r}"
        )

    @classmethod
    def from_manifest(cls, entry: Mapping[str, Any], recall: float | None = None) -> "IndexSpec":
        """What an updated version needs: what was chosen is chosen again, settings given by hand stay.

        Args:
            entry: The manifest's entry about the index.
            recall: Recall at 10 to reach; the former by default.
        """
        chosen_for = entry["chosen_for_recall"]
        recall = (chosen_for or DEFAULT_RECALL) if recall is None else recall
        if chosen_for is not None:
            return cls(metric=entry["metric"], recall=recall)
        engine = engine_of_manifest(entry)
        settings = engine.from_manifest(entry)
        options = {name: getattr(settings, name) for name in engine.option_names}
        return cls(settings.kind, settings.metric, recall, False, settings.int8, options)


def largest_value(dim: int) -> float:
    """The largest absolute value in embeddings of `dim` floats, gallery and queries, where the metric is not cosine."""
    return math.sqrt(MAX_SCORE / dim) / 2
