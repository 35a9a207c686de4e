"""From a recipe to the objects that train: encoder, augmentation, loss, optimizer, model."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dml.data import ImagePreprocessing, RandomAffine, RandomResizedCrop
from keras_dml.utils.deprecation import rename_arguments
from keras_dml.utils.suggestions import unknown_name
from zoo.recipe import CLOSED_FORMS, Options, Recipe

if TYPE_CHECKING:
    import keras

OPTIMIZERS = ("adam", "adamw", "sgd")
CROPS: dict[str, Callable[..., Any]] = {"random_resized_crop": RandomResizedCrop, "random_affine": RandomAffine}
"""Augmentations that make an encoder input of an image of any size."""


def preprocessing(recipe: Recipe) -> ImagePreprocessing:
    """How the recipe's test images become encoder inputs."""
    return ImagePreprocessing(recipe.input_size, recipe.resize, recipe.channels)


def validate(recipe: Recipe) -> None:
    """Refuses what would only fail once the training has begun.

    Raises:
        ValueError: For names that do not exist, arguments that what they name does not take, and settings that do not
            fit each other.
    """
    from zoo.rivals import RIVALS

    recipe.arm(recipe.exported)
    for name in recipe.rivals:
        if name not in RIVALS:
            raise ValueError(unknown_name("rival", name, RIVALS))
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
    known_inits = (*backbones.EMBEDDING_INITS, *CLOSED_FORMS)
    if arm.embedding_init not in known_inits:
        raise ValueError(unknown_name("embedding_init", arm.embedding_init, known_inits))
    build_optimizer(arm, arm.learning_rate)
    _check_schedule(arm)
    _check_trainable(arm)
    if arm.evaluated_widths and arm.embedding_dim is not None and max(arm.evaluated_widths) > arm.embedding_dim:
        raise ValueError(
            f"`widths` must be at most the embedding width. Received: widths={arm.evaluated_widths}, "
            f"embedding_dim={arm.embedding_dim}"
        )
    _check_augment(arm)
    loss = build_loss(arm.loss, arm.loss_args, num_classes=2)
    if arm.pddm is not None:
        layers.PDDMUnit(**dataclasses.asdict(arm.pddm))
    elif loss.needs_pair_scorer:
        raise ValueError(
            f"the loss {arm.loss!r} scores pairs with a learned similarity, and there is none: pddm=None. "
            "Add --set pddm.units=None for one with the default settings"
        )
    if arm.das is not None:
        if arm.identity_aware and not loss.uses_ids:
            raise ValueError(
                f"the loss {arm.loss!r} cannot leave out pairs by their ids, which identity_aware=True asks for. Take "
                "a loss of keras_dml, or add --set identity_aware=False"
            )
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


def _check_schedule(arm: Recipe) -> None:
    if arm.lr_schedule != "steps" and arm.lr_milestones:
        raise ValueError(
            f'lr_milestones={arm.lr_milestones} have a meaning for lr_schedule="steps" only. Received: '
            f'lr_schedule={arm.lr_schedule!r}. Add --set "lr_milestones=()"'
        )
    if arm.lr_warmup_epochs >= arm.epochs and arm.lr_warmup_epochs:
        raise ValueError(
            "The learning rate must reach its full height before the training ends. Received: "
            f"lr_warmup_epochs={arm.lr_warmup_epochs}, epochs={arm.epochs}"
        )


def _check_trainable(arm: Recipe) -> None:
    from keras_dml.backbones.hub import PREFIX

    if arm.trainable == "head" and arm.embedding_dim is None:
        raise ValueError(
            'trainable="head" trains the linear layer of the embedding, and there is none: embedding_dim=None'
        )
    if arm.lora_rank is None:
        return
    if arm.trainable != "all":
        raise ValueError(
            f"LoRA freezes the backbone itself, so it goes with trainable='all' only. Received: "
            f"lora_rank={arm.lora_rank}, trainable={arm.trainable!r}. Set one of the two"
        )
    if not arm.backbone.startswith(PREFIX):
        raise ValueError(
            f"LoRA needs a transformer of keras-hub as backbone. Received: lora_rank={arm.lora_rank}, "
            f"backbone={arm.backbone!r}. Take {PREFIX}PRESET, or train the last blocks with --set trainable=2"
        )


def _check_augment(arm: Recipe) -> None:
    """Refuses an augmentation that does not make an encoder input; of Keras's layers only a try can tell."""
    from keras_dml.data import LayerAugmentation

    augment = build_augment(arm)
    if not isinstance(augment, LayerAugmentation):
        return
    try:
        augment(np.zeros((2 * arm.input_size, 2 * arm.input_size, arm.channels), np.uint8), np.zeros(2, np.int64))
    except Exception as error:
        raise ValueError(
            f"augment={arm.augment!r} does not make images of {arm.input_size} x {arm.input_size} x {arm.channels} out "
            f"of such images: {error}"
        ) from error


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
    from keras_dml.backbones.trainable_part import enable_lora, set_trainable_part

    try:
        with _precision(recipe.precision):
            encoder = backbones.build(
                recipe.backbone,
                embedding_dim=recipe.embedding_dim,
                pooling=recipe.pooling,
                input_shape=preprocessing(recipe).input_shape,
                normalize=recipe.normalize,
                options=recipe.backbone_options,
                weights=recipe.weights,
                # Closed forms are put in once the training images are known: `zoo.frozen`.
                **({} if recipe.embedding_init in CLOSED_FORMS else {"embedding_init": recipe.embedding_init}),
            )
    except RuntimeError as error:
        raise ValueError(f"{error} (on the command line: --weights FILE)") from error
    except ImportError as error:
        raise ValueError(str(error)) from error
    if recipe.lora_rank is not None:
        enable_lora(encoder, recipe.lora_rank)
    set_trainable_part(encoder, recipe.trainable)
    return encoder


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    """Layers that are made within compute in this precision; afterwards all is as it was."""
    import keras

    before = keras.config.dtype_policy()
    if name == "float32":
        # What the user has set, where the recipe has nothing to say.
        yield
        return
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build_augment(recipe: Recipe) -> Callable[[Any, Any], Any] | None:
    """How the recipe varies its training images, or None.

    Raises:
        ValueError: For unknown names, wrong arguments, and a crop that is not the first of several augmentations.
    """
    if recipe.augment is None:
        return None
    if isinstance(recipe.augment, str):
        chosen = [{"name": recipe.augment, **recipe.augment_args}]
    else:
        chosen = [{"name": one} if isinstance(one, str) else dict(one) for one in recipe.augment]
        if recipe.augment_args:
            raise ValueError(
                "Of several augmentations, each has its own arguments: {'name': 'RandomFlip', 'mode': 'vertical'}. "
                f"Received: augment_args={dict(recipe.augment_args)}"
            )
    if not chosen or any("name" not in one for one in chosen):
        raise ValueError(
            "`augment` is a name, or one or more names and dicts of `name` and arguments. "
            f"Received: augment={recipe.augment!r}"
        )
    names = [str(one.pop("name")) for one in chosen]
    first = None
    if names[0] in CROPS:
        _check_arguments(names[0], CROPS[names[0]], chosen[0], given=("size", "channels"))
        first = CROPS[names[0]](recipe.input_size, recipe.channels, **chosen[0])
        if len(names) == 1:
            return first
    rest = slice(0 if first is None else 1, None)
    return _layers(names[rest], chosen[rest], preprocessing(recipe), first)


def _layers(
    names: list[str], arguments: Sequence[Options], inputs: ImagePreprocessing, first: Any
) -> Callable[..., Any]:
    import keras

    from keras_dml.data.images.layer_augmentation import LayerAugmentation, image_layer, image_layer_names

    layers = []
    for name, given in zip(names, arguments, strict=True):
        if name in CROPS:
            raise ValueError(f"{name} makes an image of the encoder's size, so it comes first. Received: {names}")
        if name not in image_layer_names():
            raise ValueError(unknown_name("augmentation", name, [*CROPS, *image_layer_names()]))
        _check_arguments(name, getattr(keras.layers, name), given, given=("seed",))
        layers.append(image_layer(name, dict(given)))
    return LayerAugmentation(layers, inputs, first)


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
    arguments = rename_arguments(f"the loss {name}", arguments, loss.renamed_arguments)
    _check_arguments(name, loss, arguments)
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


def build_optimizer(recipe: Recipe, rate: Any, head: bool = False) -> "keras.optimizers.Optimizer":
    """The recipe's optimizer at `rate`, a number or a schedule.

    Args:
        recipe: Whose optimizer.
        rate: The learning rate.
        head: Whether it trains the weights of the loss, which do not decay and are not averaged.
    """
    import keras

    if recipe.optimizer not in OPTIMIZERS:
        raise ValueError(unknown_name("optimizer", recipe.optimizer, OPTIMIZERS))
    optimizers = keras.optimizers
    kind = {"adam": optimizers.Adam, "adamw": optimizers.AdamW, "sgd": optimizers.SGD}[recipe.optimizer]
    _check_arguments(recipe.optimizer, kind, recipe.optimizer_args)
    momentum = {"momentum": 0.9} if recipe.optimizer == "sgd" else {}
    average = {} if recipe.ema is None or head else {"use_ema": True, "ema_momentum": recipe.ema}
    decay = {"weight_decay": 0.0} if recipe.optimizer == "adamw" and head else {}
    return kind(rate, **{**momentum, **recipe.optimizer_args, **average, **decay})


def build_model(recipe: Recipe, encoder: "keras.Model", num_classes: int, steps_per_epoch: int, seed: int) -> Any:
    """The compiled `MetricLearner` of an arm."""
    from keras_dml import MetricLearner, layers
    from zoo.schedules import schedule

    augmentation = None
    if recipe.das is not None:
        augmentation = layers.DASAugmentation(num_classes, seed=seed, **dataclasses.asdict(recipe.das))
    pair_scorer = None
    if recipe.pddm is not None:
        pair_scorer = layers.PDDMUnit(seed=seed, **dataclasses.asdict(recipe.pddm))
    # Images in [0, 255] must reach the encoder as they are, which casts what it computes with by itself; only by its
    # name does the policy tell Keras to scale the loss under float16.
    precision: dict[str, Any] = {} if recipe.precision == "float32" else {"dtype": recipe.precision, "autocast": False}
    model = MetricLearner(
        encoder,
        augmentation=augmentation,
        pair_scorer=pair_scorer,
        l2_decay=recipe.l2_decay,
        clip_norm=recipe.clip_norm,
        frozen_batch_norm=recipe.frozen_batch_norm,
        auxiliary_weight=recipe.auxiliary_weight if recipe.das is not None else None,
        identity_aware=recipe.identity_aware and recipe.das is not None,
        **precision,
    )

    def optimizer(rate: float, head: bool = False) -> "keras.optimizers.Optimizer":
        return build_optimizer(recipe, schedule(recipe, rate, steps_per_epoch), head)

    rate = recipe.loss_learning_rate
    model.compile(
        optimizer=optimizer(recipe.learning_rate),
        loss=build_loss(recipe.loss, recipe.loss_args, num_classes),
        loss_optimizer=None if rate is None else optimizer(rate, head=True),
    )
    return model
