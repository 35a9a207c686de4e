"""From a recipe to the objects that train: encoder, augmentation, loss, optimizer, model."""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from keras_dml.data import ImagePreprocessing, RandomAffine, RandomResizedCrop
from keras_dml.utils.suggestions import unknown_name
from zoo.recipe import Options, Recipe

if TYPE_CHECKING:
    import keras

OPTIMIZERS = ("adam", "sgd")


def preprocessing(recipe: Recipe) -> ImagePreprocessing:
    """How the recipe's test images become encoder inputs."""
    return ImagePreprocessing(recipe.input_size, recipe.resize, recipe.channels)


def validate(recipe: Recipe) -> None:
    """Refuses what would only fail once the training has begun.

    Raises:
        ValueError: For names that do not exist, arguments that what they name does not take, and settings that do not
            fit each other.
    """
    recipe.arm(recipe.exported)
    for name in recipe.arms:
        try:
            _validate_arm(recipe.arm(name))
        except (TypeError, ValueError) as error:
            raise ValueError(f"Arm {name!r}: {error}") from error


def _validate_arm(arm: Recipe) -> None:
    from keras_dml import backbones, layers

    preprocessing(arm)
    _check_backbone(arm.backbone, arm.backbone_options)
    if arm.pooling not in backbones.POOLINGS:
        raise ValueError(unknown_name("pooling", arm.pooling, backbones.POOLINGS))
    build_optimizer(arm, arm.learning_rate)
    build_augment(arm)
    loss = build_loss(arm.loss, arm.loss_args, num_classes=2)
    if arm.pddm is not None:
        layers.PDDMUnit(**dataclasses.asdict(arm.pddm))
    elif loss.needs_similarity:
        raise ValueError(
            f"the loss {arm.loss!r} scores pairs with a learned similarity, and there is none: pddm=None. "
            "Add --set pddm.units=None for one with the default settings"
        )
    if arm.das is not None:
        layers.DASAugmentation(2, **dataclasses.asdict(arm.das))
        if arm.embedding_dim is not None and arm.das.top_k > arm.embedding_dim:
            raise ValueError(
                f"`das.top_k` must be at most the embedding width. Received: top_k={arm.das.top_k}, "
                f"embedding_dim={arm.embedding_dim}"
            )
        if arm.das.normalize != arm.normalize:
            raise ValueError(
                "produced embeddings must have unit length where the real ones have it, and only there. Received: "
                f"normalize={arm.normalize}, das.normalize={arm.das.normalize}. Add --set das.normalize={arm.normalize}"
            )


def _check_backbone(name: str, options: Options) -> None:
    """Refuses names and options that `keras_dml.backbones.build` does not know, but for those of keras-hub."""
    import keras

    from keras_dml.backbones import BACKBONES
    from keras_dml.backbones.applications import application_names, find_application
    from keras_dml.backbones.hub import PREFIX

    if name.startswith(PREFIX):
        return  # Both are the preset's, which only keras-hub can tell.
    plain = name.replace("_", "").replace("-", "").lower()
    own = {known.replace("_", ""): builder for known, builder in BACKBONES.items()}
    network = find_application(name)
    if plain in own:
        _check_arguments(name, own[plain], options, given=("input_shape", "keras_weights"))
    elif network is not None:
        given = ("include_top", "weights", "input_tensor", "input_shape", "pooling", "classes")
        _check_arguments(name, getattr(keras.applications, network), options, given)
    else:
        raise ValueError(unknown_name("backbone", name, (*BACKBONES, *application_names(), f"{PREFIX}PRESET")))


def build_encoder(recipe: Recipe) -> "keras.Model":
    """The recipe's encoder before training; seed Keras first.

    Raises:
        ValueError: For settings that do not fit, weights that cannot be downloaded, and a package that is missing.
    """
    from keras_dml import backbones

    try:
        return backbones.build(
            recipe.backbone,
            embedding_dim=recipe.embedding_dim,
            pooling=recipe.pooling,
            input_shape=preprocessing(recipe).input_shape,
            normalize=recipe.normalize,
            options=recipe.backbone_options,
            weights=recipe.weights,
        )
    except RuntimeError as error:
        raise ValueError(f"{error} (on the command line: --weights FILE)") from error
    except ImportError as error:
        raise ValueError(str(error)) from error


def build_augment(recipe: Recipe) -> Callable[[Any, Any], Any] | None:
    """How the recipe varies its training images, or None."""
    if recipe.augment is None:
        return None
    known = {"random_resized_crop": RandomResizedCrop, "random_affine": RandomAffine}
    if recipe.augment not in known:
        raise ValueError(unknown_name("augmentation", recipe.augment, known))
    augment = known[recipe.augment]
    _check_arguments(recipe.augment, augment, recipe.augment_args)
    return augment(recipe.input_size, recipe.channels, **recipe.augment_args)


def _check_arguments(name: str, builder: Callable[..., Any], arguments: Options, given: Collection[str] = ()) -> None:
    """Refuses arguments that `builder` does not name, with the nearest that it does; `given` are not to be chosen."""
    parameters = inspect.signature(builder).parameters.items()
    known = [key for key, one in parameters if one.kind is not one.VAR_KEYWORD and key not in given]
    for key in arguments:
        if key not in known:
            raise ValueError(unknown_name(f"argument of {name}", key, known))


def build_loss(name: str, arguments: Options, num_classes: int) -> Any:
    """A loss by name; proxies and per-class margins get one row for each training class.

    Args:
        name: A name of `keras_dml.losses`, or "tensorflow-similarity:NAME".
        arguments: Its arguments. For a loss around another, `loss` is a name, or a dict of `name` and arguments.
        num_classes: Number of training classes.
    """
    from keras_dml import losses

    library, _, name = name.rpartition(":")
    if library == "tensorflow-similarity":
        return losses.similarity(name, **arguments)
    if library:
        raise ValueError(f"A loss is NAME or tensorflow-similarity:NAME. Received: {library}:{name}")
    loss = losses.loss_class(name)
    _check_arguments(name, loss, arguments)
    arguments = dict(arguments)
    if "num_classes" in inspect.signature(loss).parameters:
        arguments.setdefault("num_classes", num_classes)
    if "loss" in arguments:
        inner = arguments["loss"]
        inner = {"name": inner} if isinstance(inner, str) else inner
        if not isinstance(inner, Mapping) or "name" not in inner:
            raise ValueError(
                f"The `loss` of {name} is a name, or a dict of `name` and arguments, such as "
                f"{{'name': 'margin', 'margin': 0.2}}. Received: {inner!r}"
            )
        inner = dict(inner)
        arguments["loss"] = build_loss(inner.pop("name"), inner, num_classes)
    return loss(**arguments)


def build_optimizer(recipe: Recipe, rate: Any) -> "keras.optimizers.Optimizer":
    """The recipe's optimizer at `rate`, a number or a schedule."""
    import keras

    if recipe.optimizer not in OPTIMIZERS:
        raise ValueError(unknown_name("optimizer", recipe.optimizer, OPTIMIZERS))
    kind = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}[recipe.optimizer]
    _check_arguments(recipe.optimizer, kind, recipe.optimizer_args)
    momentum = {"momentum": 0.9} if recipe.optimizer == "sgd" else {}
    return kind(rate, **{**momentum, **recipe.optimizer_args})


def build_model(recipe: Recipe, encoder: "keras.Model", num_classes: int, steps_per_epoch: int, seed: int) -> Any:
    """The compiled `MetricLearner` of an arm."""
    import keras

    from keras_dml import MetricLearner, layers

    augmentation = None
    if recipe.das is not None:
        augmentation = layers.DASAugmentation(num_classes, seed=seed, **dataclasses.asdict(recipe.das))
    similarity = None
    if recipe.pddm is not None:
        similarity = layers.PDDMUnit(seed=seed, **dataclasses.asdict(recipe.pddm))
    model = MetricLearner(
        encoder,
        augmentation=augmentation,
        similarity=similarity,
        l2_decay=recipe.l2_decay,
        clip_norm=recipe.clip_norm,
        frozen_batch_norm=recipe.frozen_batch_norm,
        auxiliary_weight=recipe.auxiliary_weight if recipe.das is not None else None,
    )

    def optimizer(rate: float) -> "keras.optimizers.Optimizer":
        schedule: Any = rate
        if recipe.lr_milestones:
            # Keras keeps a value up to its boundary, and counts steps from 0: the last step of the epoch before.
            boundaries = [epoch * steps_per_epoch - 1 for epoch in recipe.lr_milestones]
            values = [rate * recipe.lr_gamma**drops for drops in range(len(boundaries) + 1)]
            schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
        return build_optimizer(recipe, schedule)

    model.compile(
        optimizer=optimizer(recipe.learning_rate),
        loss=build_loss(recipe.loss, recipe.loss_args, num_classes),
        loss_optimizer=None if recipe.loss_learning_rate is None else optimizer(recipe.loss_learning_rate),
    )
    return model
