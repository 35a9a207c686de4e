"""ScaNN: exact search, asymmetric hashing, and k-means trees in front of the hashing.

An index lies in the SavedModel as raw files; ScaNN's TensorFlow ops read them when it is loaded.
"""

import dataclasses
import functools
import importlib.metadata
import math
import pathlib
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from export.index.calibration import RECALL_AT
from export.index.engine import Engine, EngineSettings, Ladder, register_engine
from keras_dml.typing import Tensor

if TYPE_CHECKING:
    from export.graph.searcher import Searcher
    from export.index.spec import IndexSpec

EXACT, HASHING, TREE = "scann_exact", "hashing", "tree"
# The C++ symbols of TensorFlow change with every minor release and pip does not notice a mismatch.
SUPPORTED = {"1.4.2": "2.20"}
# Floats in the gallery up to which exact search is fast enough, and up to which hashing needs no tree in front.
EXACT_FLOATS = 5_500_000
HASHING_FLOATS = 40_000_000
# Hashing needs points to train its codebooks on, and blocks of more than a dimension or two.
HASHING_MIN_SIZE = 1000
HASHING_MIN_DIM = 8
# ScaNN refuses to train codebooks of 16 centers on fewer points; calibration leaves a tenth of them out.
MIN_SIZE = 20
# Exact scores are computed for this many candidates per neighbor asked for.
CANDIDATES_PER_NEIGHBOR = 10
# Queries from which on ScaNN's thread pool pays for itself.
PARALLEL_QUERIES = 32
# Order of the tensors that ScaNN's scann_to_tensors returns, with rank and type.
TENSORS = {
    "scann_config": (0, "string"),
    "serialized_partitioner": (0, "string"),
    "datapoint_to_token": (1, "int32"),
    "ah_codebook": (0, "string"),
    "hashed_dataset": (2, "uint8"),
    "int8_dataset": (2, "int8"),
    "int8_multipliers": (1, "float32"),
    "dp_norms": (1, "float32"),
    "dataset": (2, "float32"),
}


@dataclasses.dataclass(frozen=True)
class ScannSettings(EngineSettings):
    """Settings of a ScaNN index.

    Args:
        kind: `"scann_exact"`, `"hashing"` (asymmetric hashing, then exact scores for the best) or `"tree"` (k-means
            leaves in front of the hashing).
        metric: As for `IndexSpec`.
        int8: As for `IndexSpec`.
        leaves: Number of leaves of the tree.
        leaves_to_search: Leaves searched for a query.
        reorder: Candidates that get exact scores for a query, 100 by default. At least ten per neighbor asked for.
        dimensions_per_block: Embedding dimensions per hashed block.
        anisotropic_threshold: Threshold of the anisotropic quantization loss (cosine and dot product).
    """

    leaves: int | None = None
    leaves_to_search: int | None = None
    reorder: int | None = None
    dimensions_per_block: int = 2
    anisotropic_threshold: float | None = 0.2

    def __post_init__(self) -> None:
        for name in ("leaves", "leaves_to_search", "reorder", "dimensions_per_block"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        if self.kind == TREE and (self.leaves is None or self.leaves_to_search is None):
            raise ValueError(
                "A tree needs `leaves` and `leaves_to_search`. "
                f"Received: leaves={self.leaves}, leaves_to_search={self.leaves_to_search}"
            )
        if self.kind == TREE and self.leaves_to_search > self.leaves:  # type: ignore[operator]
            raise ValueError(
                "`leaves_to_search` must be at most `leaves`. "
                f"Received: leaves_to_search={self.leaves_to_search}, leaves={self.leaves}"
            )
        if self.kind != EXACT and self.reorder is None:
            object.__setattr__(self, "reorder", 100)


class ScannIndex(NamedTuple):
    """A built index.

    Args:
        searcher: ScaNN's searcher for TensorFlow.
        size: Its rows.
    """

    searcher: Any
    size: int


@register_engine
class ScannEngine(Engine):
    """ScaNN's TensorFlow ops."""

    name = "scann"
    kinds = (EXACT, HASHING, TREE)
    renamed_kinds: Mapping[str, str] = {"brute_force": EXACT}
    settings_class = ScannSettings
    options: Mapping[str, str] = {
        "leaves": "leaves of a tree",
        "leaves_to_search": "leaves searched for a query; given, it is not calibrated",
        "reorder": "candidates that get exact scores; given, it is not calibrated",
        "dimensions_per_block": "dimensions per hashed block (default 2)",
    }
    effort_options = frozenset({"leaves_to_search", "reorder"})
    supports_int8 = True
    libraries = ("scann",)
    stock_tensorflow = False
    preference = 10

    def register(self) -> None:
        register_ops()

    def choose(self, spec: "IndexSpec", size: int, dim: int) -> ScannSettings:
        options = dict(spec.options)
        kind = spec.kind if spec.kind in self.kinds else self._kind(options, size, dim)
        options.setdefault("anisotropic_threshold", None if spec.chosen_metric == "euclidean" else 0.2)
        if kind == TREE:
            if options.get("leaves") is None:
                options["leaves"] = max(1, int(min(3 * math.sqrt(size), size / 20)))
            if options.get("leaves_to_search") is None:
                options["leaves_to_search"] = max(1, options["leaves"] // 50)
        return ScannSettings(kind, spec.chosen_metric, spec.int8, **options)

    def _kind(self, options: Mapping[str, Any], size: int, dim: int) -> str:
        if "leaves" in options or "leaves_to_search" in options:
            return TREE
        floats = size * dim
        if floats <= EXACT_FLOATS or size < HASHING_MIN_SIZE or dim < HASHING_MIN_DIM:
            return EXACT
        return HASHING if floats <= HASHING_FLOATS else TREE

    def check(self, settings: EngineSettings, size: int) -> None:
        assert isinstance(settings, ScannSettings)
        if settings.kind == TREE and settings.leaves is not None and settings.leaves > size:
            raise ValueError(
                f"A tree cannot have more leaves than items. Received: leaves={settings.leaves}, {size} items"
            )
        if settings.kind != EXACT and size < MIN_SIZE:
            raise ValueError(
                f"An index of kind {settings.kind} needs at least {MIN_SIZE} items. Received: {size} items. "
                f"Use {EXACT}, which is exact, and fast for so few"
            )

    def fit(self, settings: EngineSettings, size: int) -> EngineSettings:
        assert isinstance(settings, ScannSettings)
        if settings.kind != TREE or (settings.leaves or 1) <= size:
            return settings
        return dataclasses.replace(settings, leaves=size, leaves_to_search=min(settings.leaves_to_search or 1, size))

    def is_exact(self, settings: EngineSettings) -> bool:
        return settings.kind == EXACT and not settings.int8

    def ladders(self, settings: EngineSettings, size: int) -> Sequence[Ladder]:
        assert isinstance(settings, ScannSettings)
        if settings.kind == EXACT:
            return ()
        # With every leaf searched and the recall still short, the hashed scores lose the right candidates: keep more.
        reorder = Ladder(
            "reorder", sorted({min(size, (settings.reorder or 100) * 2**step) for step in range(16)}), True
        )
        if settings.kind == HASHING:
            return (reorder,)
        counts = sorted({max(1, min(settings.leaves or 1, round(1.12**step))) for step in range(200)})
        leaves = Ladder("leaves_to_search", counts)
        return (leaves, reorder, leaves)

    def build(self, rows: np.ndarray, settings: EngineSettings) -> ScannIndex:
        assert isinstance(settings, ScannSettings)
        ops = register_ops()
        measure = "squared_l2" if settings.metric == "euclidean" else "dot_product"
        builder = ops.builder(np.ascontiguousarray(rows, np.float32), RECALL_AT, measure)
        if settings.kind == EXACT:
            return ScannIndex(builder.score_brute_force(quantize=settings.int8).build(), len(rows))
        if settings.kind == TREE:
            builder = builder.tree(
                num_leaves=settings.leaves,
                num_leaves_to_search=settings.leaves_to_search,
                training_sample_size=min(len(rows), max(100_000, 50 * (settings.leaves or 1))),
                # Unit vectors want a spherical tree: recall at the same effort is much higher.
                spherical=settings.metric == "cosine",
            )
        threshold = settings.anisotropic_threshold
        builder = builder.score_ah(
            settings.dimensions_per_block,
            anisotropic_quantization_threshold=float("nan") if threshold is None else threshold,
        )
        return ScannIndex(builder.reorder(settings.reorder, quantize=settings.int8).build(), len(rows))

    def search(self, index: ScannIndex, queries: np.ndarray, k: int, settings: EngineSettings) -> np.ndarray:
        assert isinstance(settings, ScannSettings)
        indices, distances = index.searcher.search_batched_parallel(
            queries,
            final_num_neighbors=k,
            pre_reorder_num_neighbors=None if settings.reorder is None else min(settings.reorder, index.size),
            leaves_to_search=settings.leaves_to_search,
        )
        indices = np.where(np.isnan(distances.numpy()), -1, indices.numpy())
        return np.pad(indices, ((0, 0), (0, k - indices.shape[1])), constant_values=-1)

    def searcher(self, index: ScannIndex, settings: EngineSettings, scratch: pathlib.Path) -> "Searcher":
        import tensorflow as tf

        from export.graph.searcher import Searcher

        assert isinstance(settings, ScannSettings)
        ops = register_ops()
        resource = _resource_class()(ops, ops.scann_to_tensors(index.searcher.searcher_handle), scratch)
        size = index.size

        def find(queries: Tensor, k: Tensor, candidates: Tensor, leaves: Tensor) -> tuple[Tensor, Tensor]:
            indices, distances = ops.scann_search_batched(
                scann_handle=resource.handle(),
                queries=queries,
                final_num_neighbors=k,
                pre_reordering_num_neighbors=candidates,
                leaves_to_search=leaves,
                parallel=tf.shape(queries)[0] >= PARALLEL_QUERIES,
            )
            indices = tf.ensure_shape(indices, (None, None))
            distances = tf.ensure_shape(distances, (None, None))
            return indices, -distances if settings.metric == "euclidean" else distances

        def search(queries: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            if settings.kind == EXACT:
                return find(queries, k, tf.constant(-1), tf.constant(-1))
            candidates = tf.minimum(tf.maximum(settings.reorder, CANDIDATES_PER_NEIGHBOR * k), size)
            leaves = tf.constant(-1)
            if settings.kind == TREE:
                # As many leaves as hold the candidates on average, where k is far beyond what was calibrated.
                needed = tf.math.ceil(2.0 * tf.cast(k, tf.float32) * ((settings.leaves or 1) / size))
                leaves = tf.maximum(settings.leaves_to_search, tf.cast(needed, tf.int32))
                leaves = tf.minimum(leaves, settings.leaves)
            indices, scores = find(queries, k, candidates, leaves)
            # ScaNN returns fewer columns, or pads with NaN, where the leaves it visited hold too few items.
            short = tf.logical_or(tf.shape(scores)[1] < k, tf.reduce_any(tf.math.is_nan(scores)))
            every_leaf = tf.constant(settings.leaves if settings.kind == TREE else -1)
            return tf.cond(short, lambda: find(queries, k, tf.constant(size), every_leaf), lambda: (indices, scores))

        return Searcher(search, {"resource": resource}, resource.memory_bytes)

    def describe(self, settings: EngineSettings) -> str:
        assert isinstance(settings, ScannSettings)
        words = [super().describe(settings)]
        if settings.kind == TREE:
            words.append(f"{settings.leaves_to_search} of {settings.leaves} leaves searched")
        if settings.kind != EXACT:
            words.append(f"{settings.reorder} candidates reordered")
        if settings.int8:
            words.append("8-bit vectors")
        return ", ".join(words)

    def wrote(self, entry: Mapping[str, Any]) -> bool:
        # Manifests of format 1 have no "engine".
        return super().wrote(entry) or bool(entry.get("needs_scann"))


def register_ops() -> Any:
    """Loads ScaNN's op library into TensorFlow and returns its Python wrappers.

    Returns:
        The module `scann.scann_ops.py.scann_ops`.

    Raises:
        RuntimeError: scann is not installed, or was built for another TensorFlow.
    """
    import tensorflow as tf

    remedy = "Or load the model's exact twin, which needs no scann: export.load(path, exact=True)"
    try:
        version = importlib.metadata.version("scann")
    except importlib.metadata.PackageNotFoundError:
        raise RuntimeError(
            "This model's index needs the package scann, which is not installed. Install the pair that fits: "
            f"pip install 'scann[tf]==1.4.2' 'tensorflow==2.20.*' (found: TensorFlow {tf.__version__}). {remedy}"
        ) from None
    expected = SUPPORTED.get(version)
    if expected is not None and not tf.__version__.startswith(expected + "."):
        raise RuntimeError(
            f"scann {version} works with TensorFlow {expected} alone. Received: TensorFlow {tf.__version__}. "
            f"Install the pair that fits: pip install 'scann[tf]=={version}' 'tensorflow=={expected}.*'. {remedy}"
        )
    try:
        from scann.scann_ops.py import scann_ops
    except Exception as error:
        raise RuntimeError(
            f"The ops of scann {version} do not load into TensorFlow {tf.__version__}: {error}. Install the pair that "
            f"fits: pip install 'scann[tf]==1.4.2' 'tensorflow==2.20.*'. {remedy}"
        ) from error
    return scann_ops


def searcher_handle(ops: Any, shared_name: str) -> Tensor:
    """Handle of the searcher that exists under `shared_name`, a scalar resource.

    Args:
        ops: What `register_ops` returned.
        shared_name: Name of the searcher.
    """
    import tensorflow as tf

    # The op ignores its inputs when a searcher of this name exists.
    empty = {name: tf.zeros((0,) * rank, kind) for name, (rank, kind) in TENSORS.items()}
    return _make_searcher(ops, shared_name, empty)


def _make_searcher(ops: Any, shared_name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    columns = {name: tensors[name] for name in TENSORS if name != "dataset"}
    return ops.tensors_to_scann(x=tensors["dataset"], shared_name=shared_name, **columns)


@functools.cache
def _resource_class() -> Any:
    """The class `ScannResource`, made when it is first needed: its base class is TensorFlow's."""
    import tensorflow as tf

    class ScannResource(tf.saved_model.experimental.TrackableResource):
        """Holds a searcher's tensors as raw files and turns them into a searcher when the SavedModel is loaded.

        Variables would be the simpler place for the tensors, but they stay in memory beside the searcher and leak when
        models are reloaded. `_create_resource` has no access to assets, so the searcher is made by `_initialize` under
        a shared name; `handle` finds it there. `tf.saved_model.load` adds a suffix of its own to shared names on every
        load, and a session has its own resources: two loads never meet.

        Args:
            ops: What `register_ops` returned.
            tensors: What ScaNN's `scann_to_tensors` returned.
            folder: Where the raw files are written; may be deleted after the SavedModel is saved.
        """

        def __init__(self, ops: Any, tensors: Sequence[Tensor], folder: pathlib.Path) -> None:
            super().__init__(device="CPU")
            self._ops = ops
            self._shared_name = f"scann-{uuid.uuid4().hex}"
            self._assets: dict[str, Any] = {}
            self._dtypes: dict[str, Any] = {}
            self._shapes: dict[str, tuple[int, ...]] = {}
            self.memory_bytes = 0
            folder.mkdir(parents=True, exist_ok=True)
            for name, tensor in zip(TENSORS, tensors, strict=True):
                path = folder / f"{name}.bin"
                value = tensor.numpy()
                if tensor.dtype == tf.string:
                    path.write_bytes(np.asarray(value, dtype=object).reshape(-1)[0])
                else:
                    np.ascontiguousarray(value).tofile(path)
                self.memory_bytes += path.stat().st_size
                self._dtypes[name] = tensor.dtype
                self._shapes[name] = tuple(tensor.shape)
                # By hand: a TrackableResource does not track its attributes, and an untracked asset leaves the path of
                # the build machine in the graph.
                self._assets[name] = self._track_trackable(tf.saved_model.Asset(str(path)), f"asset_{name}")

        def _create_resource(self) -> Tensor:
            # A stand-in that nobody looks up: the base class wants a handle before assets can be read.
            return tf.raw_ops.AnonymousMutableHashTable(key_dtype=tf.int64, value_dtype=tf.int64)

        def _initialize(self) -> None:
            tensors = {}
            for name, asset in self._assets.items():
                raw = tf.io.read_file(asset.asset_path)
                if self._dtypes[name] != tf.string:
                    raw = tf.io.decode_raw(raw, self._dtypes[name])
                tensors[name] = tf.reshape(raw, self._shapes[name])
            _make_searcher(self._ops, self._shared_name, tensors)

        def _destroy_resource(self) -> None:
            tf.raw_ops.DestroyResourceOp(resource=self.handle(), ignore_lookup_error=True)

        def handle(self) -> Tensor:
            """Handle of the searcher that `_initialize` made, a scalar resource."""
            return searcher_handle(self._ops, self._shared_name)

    return ScannResource
