"""Trains one arm of a recipe with one seed, into a run folder."""

import pathlib
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dml.data import Benchmark, PKBatches
from keras_dml.image_encoder import ImageEncoder
from keras_dml.utils.cores import available_cores
from zoo.building import build_augment, build_encoder, build_model, preprocessing
from zoo.frozen import FrozenEncoder, is_frozen
from zoo.recipe import CLOSED_FORMS, Recipe
from zoo.runs import provenance
from zoo.runs.checkpoint import Checkpoints, threads_used
from zoo.runs.layout import RUN_FORMAT, RunFolder
from zoo.runs.results import Sides, finish, save_known, save_results, write_projector

if TYPE_CHECKING:
    from keras_dml.data import Split
    from keras_dml.evaluation import ClassFold, RetrievalResult

SELECTION = "val_map@r"
"""What chooses an epoch on held-out training classes."""
BATCH_IMAGES = 256
"""Images embedded at a time for an evaluation."""


class Watcher:
    """Is told how far a training is, and does nothing; override what you want to know."""

    def on_step(self, epochs: int, step: int, steps: int) -> None:
        """Before step `step` of the `steps` of an epoch, after `epochs` epochs; the device may be some steps behind."""

    def on_epoch(self, epochs: int, logs: dict[str, float]) -> None:
        """At the end of an epoch, after `epochs` epochs."""


def summary(result: "RetrievalResult", clustering: bool = True) -> dict[str, float]:
    """The headline numbers of an evaluation, by name; those of k-means only with `clustering`."""
    values = {f"recall@{k}": float(value) for k, value in result.recall.items()}
    values["map@r"] = float(result.map_at_r)
    return {**values, "nmi": float(result.nmi), "f1": float(result.f1)} if clustering else values


def embed(encoder: ImageEncoder, query: "Split", gallery: "Split | None") -> Sides:
    """Embeddings `(n, d)` of the images of `query`, and of those of `gallery` where there is one."""
    return encoder.embed(query, BATCH_IMAGES), None if gallery is None else encoder.embed(gallery, BATCH_IMAGES)


def evaluate(recipe: Recipe, query: "Split", gallery: "Split | None", vectors: Sides) -> dict[str, float]:
    """Headline numbers of retrieval among `query`, or from `gallery`; `vectors` are what `embed` gave for them."""
    from keras_dml.evaluation import RetrievalOptions, at_widths, evaluate_retrieval

    metric = recipe.chosen_metric
    found = (vectors[1], None if gallery is None else gallery.labels)
    result = evaluate_retrieval(vectors[0], query.labels, *found, ks=recipe.ks, options=RetrievalOptions(metric=metric))
    narrower = at_widths(vectors[0], query.labels, found, recipe.ks, recipe.evaluated_widths, metric)
    return {**summary(result, recipe.clustering), **narrower}


def train(
    recipe: Recipe,
    arm: str,
    seed: int,
    benchmark: Benchmark,
    folder: pathlib.Path,
    watcher: Watcher | None = None,
    fold: "ClassFold | None" = None,
    tensorboard: bool = False,
) -> None:
    """Trains one arm with one seed, or goes on where an interrupted training stopped.

    State is saved after every epoch: weights, optimizers, the state of DAS and of the loss, and the history. A batch
    depends on the seed and the step alone, so a resumed run is the run that was interrupted: on a CPU bit for bit; an
    accelerator may add in another order from run to run.

    Args:
        recipe: The experiment.
        arm: One of `recipe.arms`.
        seed: Of weights, batches and augmentation.
        benchmark: The data.
        folder: The run folder.
        watcher: Told about every step and epoch.
        fold: Training classes to hold out. The encoder is then that of the epoch with the best MAP@R on them, and
            the test classes are looked at once, after that. Without a fold it is that of the last epoch.
        tensorboard: Whether to write scalars and the projector's files for TensorBoard.

    Raises:
        ValueError: Settings that do not fit, an unfinished run of other settings in `folder`, a training that ended
            early as nothing was left to learn.
    """
    import keras

    from zoo.averaging import AveragedEvaluation, take_average
    from zoo.interruption import Interruption

    settings = recipe.arm(arm)
    watcher = watcher or Watcher()
    started = time.time()
    provenance.use_threads(threads_used(folder) or settings.threads or available_cores())
    keras.utils.set_random_seed(seed)
    encoder = build_encoder(settings)
    inputs = preprocessing(settings)
    frozen = FrozenEncoder(encoder, inputs, settings) if is_frozen(settings) else None
    training, checked, checked_gallery = benchmark.train, benchmark.test, benchmark.gallery
    if fold is not None:
        training, checked, checked_gallery = training.subset(fold.train), training.subset(fold.validation), None
    with warnings.catch_warnings():
        if fold is not None:
            # Without the held-out classes there may be fewer than the recipe draws, which is no mistake of anybody's.
            warnings.filterwarnings("ignore", "Every batch repeats classes", UserWarning)
        batches = PKBatches(
            training,
            inputs,
            settings.classes_per_batch,
            settings.images_per_class,
            seed=seed,
            replacement=settings.replacement,
            augment=build_augment(settings),
        )
    steps = settings.steps_per_epoch or batches.steps_per_epoch
    trained = encoder if frozen is None else frozen.head
    if settings.embedding_init in CLOSED_FORMS:
        (frozen or FrozenEncoder(encoder, inputs, settings)).start(settings, training)
    model = build_model(settings, trained, training.num_classes, steps, seed)
    session = provenance.session()
    config = {
        "format": RUN_FORMAT,
        "name": recipe.name,
        "arm": arm,
        "seed": seed,
        "benchmark": recipe.benchmark,
        "data": benchmark.identity,
        "held_out_classes": None if fold is None else fold.validation_classes.tolist(),
        "recipe": settings.to_dict(),
        "preprocessing": inputs.to_config(),
        "embedding_dim": encoder.output_shape[-1],
        "weights": provenance.weights_identity(settings.weights),
        **session,
        "sessions": [session],
    }
    checkpoints = Checkpoints(folder, config)
    restored = checkpoints.restore(model, session)
    image_encoder = ImageEncoder(encoder, inputs, model.pair_scorer, checkpoints.config, settings.chosen_metric)

    def embedded(query: "Split", gallery: "Split | None") -> Sides:
        return embed(image_encoder, query, gallery) if frozen is None else frozen.embed(query, gallery)

    # With the evaluations before and after `fit`: an interrupt that one of them lost must not let the next run begin.
    with Interruption() as interruption:
        if restored is None:
            untrained = embedded(checked, checked_gallery)
            restored = checkpoints.begin(evaluate(settings, checked, checked_gallery, untrained))
        state, before = restored, restored.seconds

        def end_of_epoch(epoch: int, logs: dict[str, float]) -> None:
            for name, value in logs.items():
                state.history.setdefault(name, []).append(float(value))
            state.epochs, state.seconds = epoch + 1, before + time.time() - started
            scores = state.history.get(SELECTION, [])
            # The first of equally good epochs, as wherever an epoch is chosen.
            improved = fold is not None and SELECTION in logs and int(np.argmax(scores)) == len(scores) - 1
            checkpoints.save(model, state, improved)
            watcher.on_epoch(epoch + 1, logs)

        def before_step(step: int, logs: Any) -> None:
            watcher.on_step(len(state.history.get("loss", ())), step, steps)

        if state.epochs < settings.epochs:
            first = state.epochs * steps
            data: Any = batches.dataset(first)
            query: Any = checked
            gallery: Any = checked_gallery
            if frozen is not None:
                data = frozen.batches(batches, frozen.features(training), first)
                query, gallery = frozen.side(checked), frozen.side(checked_gallery)
            model.fit(
                data,
                steps_per_epoch=steps,
                initial_epoch=state.epochs,
                epochs=settings.epochs,
                verbose=0,
                callbacks=[
                    interruption,
                    AveragedEvaluation(
                        query,
                        gallery,
                        ks=settings.ks,
                        every=settings.evaluate_every,
                        preprocessing=inputs,
                        widths=settings.evaluated_widths,
                        metric=settings.chosen_metric,
                    ),
                    *([keras.callbacks.TensorBoard(RunFolder(folder).tensorboard)] if tensorboard else []),
                    # Nothing at the end of a batch, for the reason given in `Interruption`.
                    keras.callbacks.LambdaCallback(on_train_batch_begin=before_step, on_epoch_end=end_of_epoch),
                ],
            )
        if state.epochs < settings.epochs:
            raise ValueError(
                f"Arm {arm!r}, seed {seed}: training ended after {state.epochs} of {settings.epochs} epochs, as no "
                f"pair was left to learn from. Lower `epochs`, or make the loss harder (a larger margin)"
            )
        take_average(model)
        if fold is not None:
            checkpoints.load_best(trained, state)
        # A run with held-out classes has looked at those alone until now.
        vectors = embedded(benchmark.test, benchmark.gallery)
        metrics = {
            "untrained" if fold is None else "untrained_held_out": state.untrained,
            "last" if fold is None else "selected": evaluate(settings, benchmark.test, benchmark.gallery, vectors),
            "seconds": before + time.time() - started,
        }
        if benchmark.known is not None and fold is None:
            known = embedded(benchmark.known, benchmark.train)
            metrics["known"] = evaluate(settings, benchmark.known, benchmark.train, known)
            save_known(folder, benchmark, known)
        save_results(folder, image_encoder, model.augmentation, benchmark, vectors)
        if tensorboard:
            write_projector(folder, benchmark.test)
        finish(folder, state.history, metrics)
        checkpoints.remove()
