"""A recipe: everything that determines a training run, typed and frozen."""

import ast
import dataclasses
import math
import re
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from keras_dml.utils.suggestions import unknown_name

Options = Mapping[str, Any]
SHARED = ("name", "summary", "benchmark", "arms", "shipped", "seeds", "clustering")
"""Fields of a recipe that are the same for all its arms."""


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
        shipped: The arm whose first seed is exported.
        backbone: A key of `keras_dml.backbones.BACKBONES`, a network of `keras.applications` such as "ConvNeXtTiny", or
            "keras_hub:PRESET".
        backbone_options: Further arguments of the backbone.
        weights: What the backbone starts from: None for fresh weights, "imagenet", or a file; see
            `keras_dml.backbones.build`.
        embedding_dim: Width d of the embedding; None for the backbone's own, without a linear layer.
        pooling: "avg", "max" or "avg+max" (their sum); "class_token" for a transformer's.
        normalize: Whether embeddings have unit length.
        input_size: Side of the encoder's square input, in pixels.
        resize: Short side before the centre crop of a test image; `input_size` by default.
        channels: 1 or 3.
        loss: A name that `keras_dml.losses.get` knows, or "tensorflow-similarity:NAME" for that library's loss.
        loss_args: Arguments of the loss.
        das: Settings of the augmentation, or None to train without.
        pddm: Settings of the learned similarity, for losses that score pairs with one ("double_header_hinge").
        auxiliary_weight: w of `L(real) + w L(real + produced)`; see `MetricLearner`.
        classes_per_batch: P.
        images_per_class: K.
        augment: How a training image is varied: "random_resized_crop", "random_affine", or None for the test
            preprocessing.
        augment_args: Arguments of the augmentation.
        replacement: Whether classes and images of a batch are drawn with replacement.
        optimizer: "adam", or "sgd" (with momentum 0.9).
        optimizer_args: Further arguments of the Keras optimizer.
        learning_rate: For the encoder.
        loss_learning_rate: For weights of the loss and of the learned similarity; the loss's own suggestion by default,
            else `learning_rate`.
        l2_decay: Coupled weight decay.
        clip_norm: Global norm of the gradient.
        frozen_batch_norm: Whether batch normalisation keeps its statistics.
        epochs: Parts of the training; after each of them its state is saved.
        steps_per_epoch: Batches of an epoch; by default `images // batch`, a pass over the training images.
        milestones: Epochs at which the learning rate is multiplied by `decay`.
        decay: See `milestones`.
        evaluate_every: Epochs between evaluations on the test classes; see `evaluated_epochs`.
        select_epoch: Whether each arm is trained once more without a part of the training classes, which then chooses
            the epoch to report; see `zoo.experiment.Experiment`.
        clustering: Whether NMI and F1 of k-means are measured too, of the untrained and the trained network. Its time
            grows with images times classes: False for millions of images.
        ks: Ranks of Recall@k, 1 among them.
        seeds: Each arm is trained once for each.
        published: `{"source": where, "metrics": {"recall@1": percent, ...}}` of the arm, to stand beside ours.
    """

    name: str
    summary: str
    benchmark: str
    arms: Mapping[str, Options]
    shipped: str
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
    pooling: str = "avg"
    normalize: bool = True
    resize: int | None = None
    channels: int = 3
    loss_args: Options = dataclasses.field(default_factory=dict)
    das: DAS | None = None
    pddm: PDDM | None = None
    auxiliary_weight: float | None = None
    augment: str | None = None
    augment_args: Options = dataclasses.field(default_factory=dict)
    replacement: bool = True
    optimizer: str = "adam"
    optimizer_args: Options = dataclasses.field(default_factory=dict)
    loss_learning_rate: float | None = None
    l2_decay: float = 0.0
    clip_norm: float | None = None
    frozen_batch_norm: bool = False
    steps_per_epoch: int | None = None
    milestones: tuple[int, ...] = ()
    decay: float = 0.3
    evaluate_every: int = 1
    select_epoch: bool = True
    clustering: bool = True
    ks: tuple[int, ...] = (1, 2, 4, 8)
    seeds: tuple[int, ...] = (0, 1, 2)
    published: Options = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = ("epochs", "evaluate_every", "classes_per_batch", "images_per_class", "input_size", "steps_per_epoch")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` of a recipe must be at least 1. Received: {name}={value}")
        for name in ("learning_rate", "loss_learning_rate", "l2_decay", "decay", "auxiliary_weight", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"`{name}` must be a finite number of at least 0. Received: {name}={value}")
        if any(epoch < 1 for epoch in self.milestones) or list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(
                f"`milestones` must be epochs in ascending order, from 1. Received: milestones={self.milestones}"
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

    def evaluated_epochs(self) -> list[int]:
        """The epochs, counted from 1, after which a run is evaluated."""
        return evaluated_epochs(self.epochs, self.evaluate_every)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return dataclasses.asdict(self)


def settings_as_saved(saved: Options) -> dict[str, Any]:
    """What `Recipe.to_dict` gave when it was saved; fields that recipes did not have then have their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    later = {name: value for name, value in defaults.items() if name not in saved}
    return {**saved, **{name: value for name, value in later.items() if value is not dataclasses.MISSING}}


def evaluated_epochs(epochs: int, every: int) -> list[int]:
    """The epochs, counted from 1, after which a run is evaluated: the first, each `every` after it, and the last.

    Args:
        epochs: Length of the run.
        every: Epochs between evaluations.
    """
    evaluated = list(range(1, epochs + 1, every))
    return evaluated if evaluated[-1] == epochs else [*evaluated, epochs]


def override(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Applies `key=value` assignments, in order.

    Warns when arms that set a field themselves keep their own value, when another `input_size` leaves `resize` as it
    is, so that another part of a test image is seen, and when `milestones` do not fit another number of `epochs`.

    Args:
        recipe: The recipe to start from.
        assignments: `field=value`, or `field.key=value` inside `das`, `loss_args` and the like. `arms=value` replaces
            all arms, `arms.ARM=value` the settings of one, and `arms.ARM.field=value` or `arms.ARM.field.key=value`
            changes one of its settings, from what the arm trains with. Values are Python literals; what is not one is
            taken as text.

    Raises:
        ValueError: For a key or an arm that does not exist (naming the nearest), a value of the wrong type or length,
            or a field that every arm sets itself.
    """
    before = recipe
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set takes key=value. Received: {assignment!r}")
        key, value = key.strip(), _literal(text.strip())
        if key.partition(".")[0] == "arms":
            recipe = _assign_arms(recipe, key, value)
        else:
            recipe = _assign(recipe, key, key.split("."), value)
            _refuse_without_effect(recipe, key)

    def chosen(field: str) -> bool:
        return any(re.search(rf"\b{field}\b", assignment) for assignment in assignments)

    if not chosen("resize"):
        _warn_of_another_crop(before, recipe)
    _warn_of_milestones(before, recipe, chosen("milestones"))
    return recipe


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _refuse_without_effect(recipe: Recipe, key: str) -> None:
    """Refuses what no arm follows, and warns of the arms that do not."""
    field, _, inside = key.partition(".")
    keeping = {arm: options[field] for arm, options in recipe.arms.items() if field in options}
    advice = f"Set arms.ARM.{key} to change an arm."
    if keeping and len(keeping) == len(recipe.arms):
        raise ValueError(f"--set {key} would change nothing: every arm sets `{field}` itself. {advice}")
    # Arms without DAS are meant to be without; its settings do not concern them.
    alike = (None,) if inside else (getattr(recipe, field),)
    surprising = [arm for arm, value in keeping.items() if value not in alike]
    if surprising:
        arms = ", ".join(surprising)
        warnings.warn(
            f"--set {key} leaves arms that set `{field}` themselves as they are: {arms}. {advice}", stacklevel=3
        )


def _warn_of_another_crop(before: Recipe, recipe: Recipe) -> None:
    """Names the arms whose `input_size` is another than `before`, but whose test images are resized as before."""
    found: dict[str, list[str]] = {}
    for arm, options in recipe.arms.items():
        old, new = before.arm(arm) if arm in before.arms else before, recipe.arm(arm)
        if new.resize is None or new.resize != old.resize or new.input_size == old.input_size:
            continue
        key = f"arms.{arm}.resize" if {"input_size", "resize"} & set(options) else "resize"
        text = (
            f"Test images are still resized to resize={new.resize}, of which the middle input_size={new.input_size} is "
            f"seen, {new.input_size / new.resize:.0%} of the short side instead of {old.input_size / new.resize:.0%}. "
            f"To see as much as before, add --set {key}={round(new.resize * new.input_size / old.input_size)}"
        )
        found.setdefault(text, []).append(arm)
    for text, arms in found.items():
        warnings.warn(f"{text} (arms: {', '.join(arms)})", stacklevel=3)


def _warn_of_milestones(before: Recipe, recipe: Recipe, chosen: bool) -> None:
    """Names the arms with other `epochs` or `milestones` than `before` that do not fit each other.

    Args:
        before: The recipe as it was.
        recipe: The recipe as it is now.
        chosen: Whether the milestones are the user's choice, which may be what they were.
    """
    found: dict[str, list[str]] = {}
    for arm, options in recipe.arms.items():
        old, new = before.arm(arm) if arm in before.arms else before, recipe.arm(arm)
        if (new.epochs, new.milestones) == (old.epochs, old.milestones):
            continue
        kept = new.milestones == old.milestones and not chosen
        late = tuple(epoch for epoch in new.milestones if epoch >= new.epochs)
        if late:
            text = f"The run has epochs={new.epochs}, and ends before the learning rate falls at milestones={late}."
        elif kept and new.milestones:
            text = (
                f"The run has epochs={new.epochs}, and the learning rate still falls at milestones={new.milestones}, "
                f"which were chosen for epochs={old.epochs}."
            )
        else:
            continue
        if kept:
            key = f"arms.{arm}.milestones" if {"epochs", "milestones"} & set(options) else "milestones"
            scaled = {round(epoch * new.epochs / old.epochs) for epoch in new.milestones} - {0, new.epochs}
            text = f'{text} To scale them, add --set "{key}={tuple(sorted(scaled))}"'
        found.setdefault(text, []).append(arm)
    for text, arms in found.items():
        warnings.warn(f"{text} (arms: {', '.join(arms)})", stacklevel=3)


def _assign_arms(recipe: Recipe, key: str, value: Any) -> Recipe:
    """`recipe` with `arms`, `arms.ARM` or `arms.ARM.field...` assigned; names of arms may hold dots."""
    inside = key.partition(".")[2]
    if not inside:
        arms = _checked(key, value, Options)
        recipe = dataclasses.replace(recipe, arms={str(arm): {} for arm in arms})
        for arm, options in arms.items():
            recipe = _assign_arms(recipe, f"{key}.{arm}", options)
        return recipe
    found = [arm for arm in recipe.arms if f"{inside}.".startswith(f"{arm}.")]
    if not found:
        raise ValueError(unknown_name(f"arm in --set {key}:", inside.partition(".")[0], recipe.arms))
    arm = max(found, key=len)
    if arm == inside:
        recipe = dataclasses.replace(recipe, arms={**recipe.arms, arm: {}})
        for field, item in _checked(key, value, Options).items():
            recipe = _assign_arms(recipe, f"{key}.{field}", item)
        return recipe
    path = inside.removeprefix(f"{arm}.").split(".")
    setting = getattr(_assign(recipe.arm(arm), key, path, value), path[0])
    return dataclasses.replace(recipe, arms={**recipe.arms, arm: {**recipe.arms[arm], path[0]: setting}})


def _assign(owner: Any, full_key: str, path: Sequence[str], value: Any) -> Any:
    name, *rest = path
    if not isinstance(owner, Mapping | Recipe | DAS | PDDM):
        raise ValueError(f"--set {full_key}: there is no {name!r}, as {owner!r} has no keys of its own")
    if isinstance(owner, Mapping):
        return {**owner, name: _assign(owner.get(name, {}), full_key, rest, value) if rest else value}
    fields = {field.name: field.type for field in dataclasses.fields(owner)}
    if name not in fields:
        raise ValueError(unknown_name(f"key in --set {full_key}:", name, fields))
    if rest:
        inner = getattr(owner, name)
        if inner is None and name in ("das", "pddm"):
            inner = DAS() if name == "das" else PDDM()
        value = _assign(inner, full_key, rest, value)
    else:
        value = _checked(full_key, value, typing.get_type_hints(type(owner))[name])
    return dataclasses.replace(owner, **{name: value})


def _checked(key: str, value: Any, expected: Any) -> Any:
    """`value` as the annotated type `expected`, where that is possible without loss."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _checked(key, value, next(option for option in arguments if option is not type(None)))
    if origin is tuple and not isinstance(value, str):
        items = value if isinstance(value, tuple | list) else (value,)
        types_of_items = (arguments[0],) * len(items) if arguments[-1] is Ellipsis else arguments
        if len(items) != len(types_of_items):
            names = ", ".join(one.__name__ for one in arguments)
            raise ValueError(f"--set {key}: expected {len(arguments)} values ({names}). Received: {value!r}")
        return tuple(_checked(key, item, one) for item, one in zip(items, types_of_items, strict=True))
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = origin or expected
    if isinstance(value, wanted) and not (isinstance(value, bool) and expected is not bool):
        return value
    name = getattr(expected, "__name__", str(expected))
    raise ValueError(f"--set {key}: expected {name}. Received: {value!r}")
