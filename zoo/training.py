"""Trains one arm of a recipe with one seed, into a run folder."""

import dataclasses
import importlib.metadata
import inspect
import os
import pathlib
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dml.data import Benchmark, ClassBatches, ImagePreprocessing, RandomAffine, RandomResizedCrop
from keras_dml.image_encoder import pair_scorer_model
from keras_dml.utils.files import as_json, read_json, sha256, write_json
from keras_dml.utils.suggestions import unknown_name
from zoo.recipe import Options, Recipe, settings_as_saved

if TYPE_CHECKING:
    import keras

    from keras_dml.data import Split
    from keras_dml.evaluation import ClassFold, RetrievalResult

RUN_FORMAT = 1
SELECTION = "val_map@r"
TENSORBOARD = "tensorboard"
OPTIMIZERS = ("adam", "sgd")
PACKAGES = ("keras-dml", "tensorflow", "keras", "tensorflow-similarity", "tensorflow-datasets", "numpy", "scann")

Report = Callable[[int, dict[str, float]], None]
"""Called at the end of an epoch with the number of epochs done and the logs."""
OnStep = Callable[[int, int, int], None]
"""Called before a step with the number of epochs done, that of the steps done in this one, and of those it has."""


def preprocessing(recipe: Recipe) -> ImagePreprocessing:
    """How the recipe's test images become encoder inputs."""
    return ImagePreprocessing(recipe.input_size, recipe.resize, recipe.channels)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a result depends on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def code_version() -> dict[str, Any]:
    """Version of keras_dml and, in a git checkout, its commit and whether files were changed since."""
    found: dict[str, Any] = {"keras-dml": importlib.metadata.version("keras-dml"), "commit": None, "modified": None}
    root = pathlib.Path(__file__).parent.parent
    if (root / ".git").exists() and shutil.which("git"):
        answers = [
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
        # Git refuses checkouts of other users; the run goes on without the commit.
        if not any(answer.returncode for answer in answers):
            found |= {"commit": answers[0].stdout.strip(), "modified": bool(answers[1].stdout.strip())}
    return found


def machine() -> dict[str, Any]:
    """What a run is computed on."""
    import tensorflow as tf

    accelerators = [
        tf.config.experimental.get_device_details(device).get("device_name", device.name)
        for device in tf.config.list_physical_devices("GPU")
    ]
    return {"architecture": platform.machine(), "cores": len(os.sched_getaffinity(0)), "accelerators": accelerators}


def validate(recipe: Recipe) -> None:
    """Refuses what would only fail once the training has begun.

    Raises:
        ValueError: For names that do not exist, arguments that what they name does not take, and settings that do not
            fit each other.
    """
    recipe.arm(recipe.shipped)
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


def weights_identity(weights: str | None) -> Any:
    """What the backbone starts from, for records: a file is named by its content, as its place is nobody's business.

    Raises:
        FileNotFoundError: If the file is missing.
    """
    if weights in (None, "imagenet"):
        return weights
    path = pathlib.Path(str(weights))
    if not path.is_file():
        raise FileNotFoundError(
            f'There is no weights file {path}. --weights takes "imagenet" or a file; --set weights=None starts from '
            "random weights"
        )
    return {"file": path.name, "sha256": sha256(path)}


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
        if recipe.milestones:
            # Keras keeps a value up to its boundary, and counts steps from 0: the last step of the epoch before.
            boundaries = [epoch * steps_per_epoch - 1 for epoch in recipe.milestones]
            values = [rate * recipe.decay**drops for drops in range(len(boundaries) + 1)]
            schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
        return build_optimizer(recipe, schedule)

    model.compile(
        optimizer=optimizer(recipe.learning_rate),
        loss=build_loss(recipe.loss, recipe.loss_args, num_classes),
        loss_optimizer=None if recipe.loss_learning_rate is None else optimizer(recipe.loss_learning_rate),
    )
    return model


def summary(result: "RetrievalResult", clustering: bool = True) -> dict[str, float]:
    """The headline numbers of an evaluation, by name; those of k-means only with `clustering`."""
    values = {f"recall@{k}": float(value) for k, value in result.recall.items()}
    values["map@r"] = float(result.map_at_r)
    return {**values, "nmi": float(result.nmi), "f1": float(result.f1)} if clustering else values


def embed(
    encoder: "keras.Model", recipe: Recipe, query: "Split", gallery: "Split | None"
) -> tuple[np.ndarray, np.ndarray | None]:
    """Embeddings `(n, d)` of the images of `query`, and of those of `gallery` where there is one."""

    def side(split: "Split") -> np.ndarray:
        return encoder.predict(split.dataset(preprocessing(recipe)), verbose=0)

    return side(query), None if gallery is None else side(gallery)


def evaluate(
    recipe: Recipe, query: "Split", gallery: "Split | None", vectors: tuple[np.ndarray, np.ndarray | None]
) -> dict[str, float]:
    """Headline numbers of retrieval among `query`, or from `gallery`; `vectors` are what `embed` gave for them."""
    from keras_dml.evaluation import evaluate_retrieval

    found = (vectors[1], None if gallery is None else gallery.labels)
    return summary(evaluate_retrieval(vectors[0], query.labels, *found, ks=recipe.ks), recipe.clustering)


def epochs_done(folder: pathlib.Path) -> int:
    """Epochs that an unfinished run in `folder` need not repeat."""
    path = folder / "progress.json"
    return read_json(path)["epochs"] if path.exists() else 0


def finished(folder: pathlib.Path) -> bool:
    """Whether the run in `folder` has been trained and evaluated to its end."""
    return (folder / "metrics.json").exists()


def train(
    recipe: Recipe,
    arm: str,
    seed: int,
    benchmark: Benchmark,
    folder: pathlib.Path,
    report: Report | None = None,
    fold: "ClassFold | None" = None,
    tensorboard: bool = False,
    on_step: OnStep | None = None,
) -> None:
    """Trains one arm with one seed, or goes on where an interrupted training stopped.

    State is saved after every epoch: weights, optimisers, the state of DAS and of the loss, and the history. A batch
    depends on the seed and the step alone, so a resumed run is the run that was interrupted: on a CPU bit for bit; an
    accelerator may add in another order from run to run.

    Args:
        recipe: The experiment.
        arm: One of `recipe.arms`.
        seed: Of weights, batches and augmentation.
        benchmark: The data.
        folder: The run folder.
        report: Called after every epoch.
        fold: Training classes to hold out. The encoder is then that of the epoch with the best MAP@R on them, and
            the test classes are looked at once, after that. Without a fold it is that of the last epoch.
        tensorboard: Whether to write scalars and the projector's files to `folder/tensorboard`.
        on_step: Called before every step; the device may be some steps behind.
    """
    import keras

    from keras_dml.callbacks import RetrievalEvaluation
    from zoo.interruption import Interruption

    settings = recipe.arm(arm)
    started = time.time()
    keras.utils.set_random_seed(seed)
    encoder = build_encoder(settings)
    inputs = preprocessing(settings)
    training, checked, checked_gallery = benchmark.train, benchmark.test, benchmark.gallery
    if fold is not None:
        training, checked, checked_gallery = training.subset(fold.train), training.subset(fold.validation), None
    batches = ClassBatches(
        training,
        inputs,
        settings.classes_per_batch,
        settings.images_per_class,
        seed=seed,
        replacement=settings.replacement,
        augment=build_augment(settings),
    )
    steps = settings.steps_per_epoch or batches.steps_per_epoch
    model = build_model(settings, encoder, training.num_classes, steps, seed)
    session = {"versions": versions(), "code": code_version(), "machine": machine()}
    config = {
        "format": RUN_FORMAT,
        "name": recipe.name,
        "arm": arm,
        "seed": seed,
        "benchmark": recipe.benchmark,
        "data": {"subset": benchmark.subset, "fingerprint": benchmark.fingerprint},
        "held_out_classes": None if fold is None else fold.validation_classes.tolist(),
        "recipe": settings.to_dict(),
        "preprocessing": inputs.to_config(),
        "embedding_dim": encoder.output_shape[-1],
        "weights": weights_identity(settings.weights),
        **session,
        "sessions": [session],
    }
    checkpoint = _Checkpoint(folder, config)
    best = folder / "best-encoder.weights.h5"
    first, history, seconds = checkpoint.restore(model, session)

    def end_of_epoch(epoch: int, logs: dict[str, float]) -> None:
        for name, value in logs.items():
            history.setdefault(name, []).append(float(value))
        # The first of equally good epochs, as wherever an epoch is chosen.
        if fold is not None and SELECTION in logs and int(np.argmax(history[SELECTION])) == len(history[SELECTION]) - 1:
            aside = best.with_name(f"partial-{best.name}")
            encoder.save_weights(aside)
            os.replace(aside, best)
        checkpoint.save(model, epoch + 1, history, seconds + time.time() - started)
        if report is not None:
            report(epoch + 1, logs)

    def before_step(step: int, logs: Any) -> None:
        if on_step is not None:
            on_step(len(history.get("loss", ())), step, steps)

    # With the evaluations before and after `fit`: an interrupt that one of them lost must not let the next run begin.
    with Interruption() as interruption:
        if not first:
            untrained = embed(encoder, settings, checked, checked_gallery)
            checkpoint.begin(evaluate(settings, checked, checked_gallery, untrained))
        if first < settings.epochs:
            model.fit(
                batches.dataset(first * steps),
                steps_per_epoch=steps,
                initial_epoch=first,
                epochs=settings.epochs,
                verbose=0,
                callbacks=[
                    interruption,
                    RetrievalEvaluation(
                        checked,
                        checked_gallery,
                        ks=settings.ks,
                        every=settings.evaluate_every,
                        preprocessing=inputs,
                    ),
                    *([keras.callbacks.TensorBoard(folder / TENSORBOARD)] if tensorboard else []),
                    # Nothing at the end of a batch, for the reason given in `Interruption`.
                    keras.callbacks.LambdaCallback(on_train_batch_begin=before_step, on_epoch_end=end_of_epoch),
                ],
            )
        if fold is not None:
            encoder.load_weights(best)
        # A run with held-out classes has looked at those alone until now.
        vectors = embed(encoder, settings, benchmark.test, benchmark.gallery)
        metrics = {
            "untrained" if fold is None else "untrained_held_out": checkpoint.untrained,
            "last" if fold is None else "selected": evaluate(settings, benchmark.test, benchmark.gallery, vectors),
            "seconds": seconds + time.time() - started,
        }
        _save_result(folder, model, benchmark, vectors)
        if tensorboard:
            _write_projector(folder, benchmark.test)
        write_json(folder / "history.json", history)
        write_json(folder / "metrics.json", metrics)
        remove_checkpoint(folder)


def _save_result(
    folder: pathlib.Path, model: Any, benchmark: Benchmark, vectors: tuple[np.ndarray, np.ndarray | None]
) -> None:
    """Writes what later steps read: encoder, learned similarity, state of DAS, embeddings of the test images."""
    encoder = model.encoder
    encoder.save(folder / "encoder.keras")
    if model.similarity is not None:
        pair_scorer_model(model.similarity, encoder.output_shape[-1]).save(folder / "similarity.keras")
    if model.augmentation is not None:
        np.savez(
            folder / "das_state.npz",
            frequency_recorder_matrix=model.augmentation.frequency_recorder_matrix.numpy(),
            transformation_bank=model.augmentation.transformation_bank.numpy(),
            bank_fill=model.augmentation.bank_fill.numpy(),
        )
    for name, split, embedded in zip(("test", "gallery"), (benchmark.test, benchmark.gallery), vectors, strict=True):
        if split is not None:
            np.savez(
                folder / f"{name}_embeddings.npz",
                embeddings=embedded,
                labels=split.labels,
                ids=np.array(split.ids),
                class_names=np.array(split.class_names),
            )


def _write_projector(folder: pathlib.Path, split: "Split", most: int = 5000) -> None:
    """Writes the test embeddings (a seeded sample of large sets) for TensorBoard's projector."""
    from keras_dml.evaluation import write_projector

    rows = np.arange(len(split))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    with np.load(folder / "test_embeddings.npz") as saved:
        write_projector(
            folder / TENSORBOARD,
            saved["embeddings"][rows],
            split.labels[rows],
            split.class_names,
            [split.ids[row] for row in rows],
        )


class _Checkpoint:
    """The state of an unfinished run: `progress.json` names the weights file that belongs to it."""

    def __init__(self, folder: pathlib.Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.config = config
        self.untrained: dict[str, float] = {}

    def restore(self, model: "keras.Model", session: dict[str, Any]) -> tuple[int, dict[str, list[float]], float]:
        """Loads the saved state into `model` and notes who goes on; epochs done, history and seconds spent so far."""
        path = self.folder / "progress.json"
        if not path.exists():
            return 0, {}, 0.0
        before = read_json(self.folder / "run.json")
        before["recipe"] = as_json(settings_as_saved(before["recipe"]))
        settled = ("recipe", "held_out_classes", "data", "weights")
        if any(before.get(name) != as_json(self.config[name]) for name in settled):
            raise ValueError(
                f"The unfinished run in {self.folder} was started with other settings or data. "
                "Give another --output, or delete the folder, or repeat the settings it was started with"
            )
        if as_json(session) not in before["sessions"]:
            write_json(self.folder / "run.json", {**before, "sessions": [*before["sessions"], session]})
        progress = read_json(path)
        self.untrained = progress["untrained"]
        if progress["weights"] is not None:
            model.load_weights(self.folder / progress["weights"])
        return progress["epochs"], progress["history"], progress["seconds"]

    def begin(self, untrained: dict[str, float]) -> None:
        """Writes the configuration and the numbers of the untrained network."""
        self.untrained = untrained
        write_json(self.folder / "run.json", self.config)
        self._write_progress(0, {}, 0.0, None)

    def save(self, model: "keras.Model", epochs: int, history: dict[str, list[float]], seconds: float) -> None:
        """Saves the state after `epochs` epochs, then forgets the state before."""
        name = f"checkpoint-{epochs}.weights.h5"
        aside = self.folder / f"partial-{epochs}.weights.h5"
        model.save_weights(aside)
        os.replace(aside, self.folder / name)
        self._write_progress(epochs, history, seconds, name)
        for old in self.folder.glob("checkpoint-*.weights.h5"):
            if old.name != name:
                old.unlink()

    def _write_progress(
        self, epochs: int, history: dict[str, list[float]], seconds: float, weights: str | None
    ) -> None:
        state = {"epochs": epochs, "history": history, "seconds": seconds, "weights": weights}
        write_json(self.folder / "progress.json", {**state, "untrained": self.untrained})


def remove_checkpoint(folder: pathlib.Path) -> None:
    """Deletes the state of a run that is finished."""
    (folder / "progress.json").unlink(missing_ok=True)
    for old in folder.glob("*.weights.h5"):
        old.unlink()
