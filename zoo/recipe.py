"""A recipe: everything that determines a training run, typed and frozen."""

import dataclasses
import math
import pathlib
import sys
import types
from collections.abc import Mapping
from typing import Any, ClassVar

from keras_dml.typing import METRICS
from keras_dml.utils.suggestions import unknown_name

Options = Mapping[str, Any]
SHARED = (
    *("name", "summary", "benchmark", "arms", "exported", "rivals", "seeds", "clustering", "threads"),
    *("choose", "known_share"),
)
"""Fields of a recipe that are the same for all its arms."""
NOT_NEGATIVE = (
    "learning_rate",
    "loss_learning_rate",
    "l2_decay",
    "lr_gamma",
    "lr_warmup_epochs",
    "auxiliary_weight",
    "clip_norm",
)
"""Fields that are finite numbers of at least 0, or None."""
CHOICES: Mapping[str, tuple[str | None, ...]] = {
    "precision": ("float32", "mixed_bfloat16", "mixed_float16"),
    "lr_schedule": ("steps", "cosine", "constant"),
    "metric": (None, *METRICS),
}
"""Fields with a few known values."""
CLOSED_FORMS = ("pca", "whitening")
"""Values of `embedding_init` that are fitted to features of the training images."""


@dataclasses.dataclass(frozen=True)
class DAS:
    """Arguments of `keras_dml.layers.DASAugmentation`; the defaults are the paper's."""

    num_produced: int = 3
    top_k: int = 4
    bank_size: int = 10
    scale_range: tuple[float, float] = (0.99, 1.01)
    shift_scale: float = 0.01
    detach: bool = True
    normalize: bool = True


@dataclasses.dataclass(frozen=True)
class PDDM:
    """Arguments of `keras_dml.layers.PDDMUnit`, the learned similarity."""

    units: int | None = None
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One experiment: an encoder, a loss, a way to train, and the arms that are compared.

    Args:
        name: What `python -m zoo.reproduce NAME` runs.
        summary: One line for `--list`.
        benchmark: A key of `keras_dml.data.BENCHMARKS`.
        arms: The variants that are trained and compared, each the fields of the recipe that it changes; it can change
            any but those in `SHARED`.
        exported: The arm whose first seed is exported.
        rivals: What stands beside the arms in every table and needs no training, by names of `zoo.rivals.RIVALS`.
        backbone: A key of `keras_dml.backbones.BACKBONES`, a network of `keras.applications` such as "ConvNeXtTiny", or
            "keras_hub:PRESET".
        backbone_options: Further arguments of the backbone.
        weights: What the backbone starts from: None for fresh weights, "imagenet", or a file; see
            `keras_dml.backbones.build`.
        embedding_dim: Width d of the embedding; None for the backbone's own, without a linear layer.
        embedding_init: What the linear layer starts from: "glorot_uniform" or "torch"; see `keras_dml.backbones.build`.
        pooling: "avg", "max" or "avg+max" (their sum); "class_token" for a transformer's.
        normalize: Whether embeddings have unit length.
        input_size: Side of the encoder's square input, in pixels.
        resize: Short side before the center crop of a test image; `input_size` by default.
        channels: 1 or 3.
        loss: A name that `keras_dml.losses.get` knows, or "tensorflow-similarity:NAME" for that library's loss.
        loss_args: Arguments of the loss.
        das: Settings of the augmentation, or None to train without.
        pddm: Settings of the learned similarity, for losses that score pairs with one ("double_header_hinge").
        auxiliary_weight: w of `L(real) + w L(real + produced)`; see `MetricLearner`.
        identity_aware: Whether DAS's embeddings are never compared with those that they were produced from; see
            `MetricLearner`.
        classes_per_batch: P.
        images_per_class: K.
        augment: How a training image is varied: "random_resized_crop", "random_affine", an image layer of Keras by its
            class name, such as "RandAugment", which then gets the image of the test preprocessing, or None for that
            alone. Or several in a row, each a name or a dict of `name` and arguments; what crops comes first:
            `("random_resized_crop", {"name": "RandomFlip", "mode": "vertical"})`.
        augment_args: Arguments of a single augmentation.
        replacement: Whether classes and images of a batch are drawn with replacement.
        optimizer: "adam", "adamw" (decoupled `weight_decay` of the encoder, in `optimizer_args`), or "sgd" (with
            momentum 0.9).
        optimizer_args: Further arguments of the Keras optimizer.
        learning_rate: For the encoder.
        loss_learning_rate: For weights of the loss and of the learned similarity; the loss's own suggestion by default,
            else `learning_rate`.
        l2_decay: Coupled weight decay.
        clip_norm: Global norm of the gradient.
        frozen_batch_norm: Whether batch normalization keeps its statistics.
        precision: What the backbone computes in: "float32", "mixed_bfloat16" or "mixed_float16". Its weights, and the
            linear layer, the loss and DAS behind it, are float32 in any case.
        trainable: Which part of the encoder trains: "all", "head" for its linear layer alone, or the number of last
            blocks of the backbone; see `keras_dml.backbones.trainable_part`.
        lora_rank: Rank of trainable updates of the attention of a keras-hub transformer, which is frozen but for them;
            None for none.
        ema: Momentum of an exponential moving average of the encoder's weights over steps, which is evaluated and kept
            in their place; None for none.
        epochs: Parts of the training; after each of them its state is saved.
        steps_per_epoch: Batches of an epoch; by default `images // batch`, a pass over the training images.
        lr_schedule: How learning rates go on: "steps" (`lr_milestones`), "cosine" (to 0 at the end of the last epoch),
            or "constant".
        lr_warmup_epochs: Epochs, or a part of one, over which learning rates rise from 0; see `zoo.schedules`.
        lr_milestones: Epochs at which the learning rate is multiplied by `lr_gamma`.
        lr_gamma: See `lr_milestones`.
        evaluate_every: Epochs between evaluations on the test classes; see `evaluated_epochs`.
        select_epoch: Whether each arm is trained once more without a part of the training classes, which then chooses
            the epoch to report; see `zoo.experiment.Experiment`.
        clustering: Whether NMI and F1 of k-means are measured too, of the untrained and the trained network. Its time
            grows with images times classes: False for millions of images.
        metric: How embeddings are compared in every evaluation, also in that which chooses an epoch: "cosine" or
            "euclidean"; None for cosine where they have unit length (`normalize`), else Euclidean distance.
        ks: Ranks of Recall@k, 1 among them.
        widths: Numbers of first channels at which embeddings are evaluated too, as `d64_recall@1` and so on; for
            "matryoshka" its own by default.
        seeds: Each arm is trained once for each.
        choose: Whether held-out training classes choose first, before anything is compared: each arm's learning rate
            (but of arms with a rate of 0), and the arm that is exported.
        known_share: Part of the images of each training class that is held out and searched for among the others,
            which tells how well new photos of known classes are found; 0 holds out none.
        threads: Threads that share one operation on the CPU; None for as many as there are cores when the experiment
            begins. Sums of float32 depend on it in their last digits, so it is part of the experiment and is kept when
            one goes on.
        published: `{"source": where, "metrics": {"recall@1": percent, ...}}` of the arm, to stand beside ours.
    """

    name: str
    summary: str
    benchmark: str
    arms: Mapping[str, Options]
    exported: str
    backbone: str
    embedding_dim: int | None
    input_size: int
    loss: str
    learning_rate: float
    epochs: int
    classes_per_batch: int
    images_per_class: int
    backbone_options: Options = dataclasses.field(default_factory=dict)
    weights: str | None = None
    embedding_init: str = "glorot_uniform"
    pooling: str = "avg"
    normalize: bool = True
    resize: int | None = None
    channels: int = 3
    loss_args: Options = dataclasses.field(default_factory=dict)
    das: DAS | None = None
    pddm: PDDM | None = None
    auxiliary_weight: float | None = None
    identity_aware: bool = False
    augment: str | tuple[Any, ...] | None = None
    augment_args: Options = dataclasses.field(default_factory=dict)
    replacement: bool = True
    optimizer: str = "adam"
    optimizer_args: Options = dataclasses.field(default_factory=dict)
    loss_learning_rate: float | None = None
    l2_decay: float = 0.0
    clip_norm: float | None = None
    frozen_batch_norm: bool = False
    precision: str = "float32"
    trainable: str | int = "all"
    lora_rank: int | None = None
    ema: float | None = None
    rivals: tuple[str, ...] = ()
    steps_per_epoch: int | None = None
    lr_schedule: str = "steps"
    lr_warmup_epochs: float = 0.0
    lr_milestones: tuple[int, ...] = ()
    lr_gamma: float = 0.3
    evaluate_every: int = 1
    select_epoch: bool = True
    clustering: bool = True
    metric: str | None = None
    ks: tuple[int, ...] = (1, 2, 4, 8)
    widths: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    choose: bool = False
    known_share: float = 0.0
    threads: int | None = 2
    published: Options = dataclasses.field(default_factory=dict)

    set_by: ClassVar[Mapping[str, str]] = {}
    """Of each setting that is not the default, the file that sets it."""

    def __post_init__(self) -> None:
        # Not a field: two recipes of equal settings are equal, wherever these were written down.
        origin = _caller()
        defaults = {field.name: _default(field) for field in dataclasses.fields(self)}
        set_here = {name: origin for name, default in defaults.items() if getattr(self, name) != default}
        object.__setattr__(self, "set_by", set_here)
        counts = (
            "epochs",
            "evaluate_every",
            "classes_per_batch",
            "images_per_class",
            "input_size",
            "embedding_dim",
            "steps_per_epoch",
            "threads",
            "lora_rank",
        )
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` of a recipe must be at least 1. Received: {name}={value}")
        for name in NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"`{name}` must be a finite number of at least 0. Received: {name}={value}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                names = [str(one) for one in known]
                raise ValueError(unknown_name(f"{name} of a recipe:", str(getattr(self, name)), names))
        if not 0 <= self.known_share < 1:
            raise ValueError(f"`known_share` must lie in [0, 1). Received: known_share={self.known_share}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"`ema`, a momentum, must lie between 0 and 1, or be None. Received: ema={self.ema}")
        if self.trainable not in ("all", "head") and (not isinstance(self.trainable, int) or self.trainable < 1):
            raise ValueError(
                f'`trainable` must be "all", "head" or a number of last blocks. Received: trainable={self.trainable!r}'
            )
        if len(set(self.widths)) < len(self.widths) or any(width < 1 for width in self.widths):
            raise ValueError(f"`widths` must be different positive numbers. Received: widths={self.widths}")
        milestones = self.lr_milestones
        if any(epoch < 1 for epoch in milestones) or list(milestones) != sorted(set(milestones)):
            raise ValueError(
                f"`lr_milestones` must be epochs in ascending order, from 1. Received: lr_milestones={milestones}"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` must be one or more different numbers. Received: seeds={self.seeds}")
        for seed in self.seeds:
            if not 0 <= seed < 2**32:
                raise ValueError(f"A seed must lie between 0 and {2**32 - 1}. Received: seed={seed}")
        if 1 not in self.ks:
            raise ValueError(f"`ks` must hold 1, the rank every table shows. Received: ks={self.ks}")
        settings = [field.name for field in dataclasses.fields(self) if field.name not in SHARED]
        for arm, options in self.arms.items():
            for name in options:
                if name not in settings:
                    raise ValueError(unknown_name(f"setting of arm {arm!r}:", name, settings))

    def arm(self, name: str) -> "Recipe":
        """The recipe as one of its arms trains it."""
        if name not in self.arms:
            raise ValueError(unknown_name("arm", name, self.arms))
        return dataclasses.replace(self, **self.arms[name])

    @property
    def evaluated_widths(self) -> tuple[int, ...]:
        """Widths of prefixes that are evaluated beside the whole embedding."""
        chosen = self.widths or (self.loss_args.get("widths", ()) if self.loss == "matryoshka" else ())
        return tuple(width for width in chosen if width != self.embedding_dim)

    @property
    def chosen_metric(self) -> str:
        """How embeddings are compared, where `metric` leaves it to `normalize` too."""
        return _metric(self.metric, self.normalize)

    def evaluated_epochs(self) -> list[int]:
        """The epochs, counted from 1, after which a run is evaluated."""
        return evaluated_epochs(self.epochs, self.evaluate_every)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return dataclasses.asdict(self)


def derived(base: Recipe, **changes: Any) -> Recipe:
    """`base` with some settings changed, like `dataclasses.replace`; `set_by` tells the one's file from the other's."""
    recipe = dataclasses.replace(base, **changes)
    origin = _caller()
    object.__setattr__(recipe, "set_by", {**base.set_by, **dict.fromkeys(changes, origin)})
    return recipe


def _caller() -> str:
    """The file of the nearest caller outside this module, seen from the folder that holds the package."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in (__name__, "dataclasses"):
        frame = frame.f_back
    path = pathlib.Path(frame.f_code.co_filename if frame is not None else "?")
    root = pathlib.Path(__file__).parents[1]
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _default(field: Any) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


RENAMED = {"shipped": "exported", "milestones": "lr_milestones", "decay": "lr_gamma"}
"""What fields of a recipe were called in version 0.1."""


def settings_as_saved(saved: Options) -> dict[str, Any]:
    """What `Recipe.to_dict` gave when it was saved, as it would give it now.

    Fields have today's names, and those that recipes did not have then have their defaults; but for `metric`, before
    which every embedding was compared by cosine.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    renamed = {RENAMED.get(name, name): value for name, value in saved.items()}
    if isinstance(renamed.get("arms"), Mapping):
        renamed["arms"] = {
            arm: {RENAMED.get(name, name): value for name, value in options.items()}
            for arm, options in renamed["arms"].items()
        }
    if "metric" not in renamed:
        _compare_by_cosine(renamed)
    later = {name: value for name, value in defaults.items() if name not in renamed}
    return {**renamed, **{name: value for name, value in later.items() if value is not dataclasses.MISSING}}


def _compare_by_cosine(settings: dict[str, Any]) -> None:
    """Says so in settings, and in those of their arms, that would be evaluated by Euclidean distance today."""
    if not settings.get("normalize", True):
        settings["metric"] = "cosine"
        return
    arms = settings.get("arms")
    if isinstance(arms, Mapping):
        settings["arms"] = {
            arm: options if options.get("normalize", True) else {"metric": "cosine", **options}
            for arm, options in arms.items()
        }


def metric_of(settings: Options) -> str:
    """How the embeddings of a run are compared.

    Args:
        settings: What `Recipe.to_dict` gave for its arm, now or in an older version.
    """
    now = settings_as_saved(settings)
    return _metric(now["metric"], now["normalize"])


def _metric(chosen: str | None, normalize: bool) -> str:
    return chosen or ("cosine" if normalize else "euclidean")


def evaluated_epochs(epochs: int, every: int) -> list[int]:
    """The epochs, counted from 1, after which a run is evaluated: the first, each `every` after it, and the last.

    Args:
        epochs: Length of the run.
        every: Epochs between evaluations.
    """
    evaluated = list(range(1, epochs + 1, every))
    return evaluated if evaluated[-1] == epochs else [*evaluated, epochs]
