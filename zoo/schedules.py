"""How learning rates change over a training."""

import math
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

if TYPE_CHECKING:
    from zoo.recipe import Recipe


def schedule(recipe: "Recipe", rate: float, steps_per_epoch: int) -> Any:
    """The learning rate of a recipe: a number, or a schedule where it changes.

    Args:
        recipe: Whose `lr_schedule`, `lr_warmup_epochs`, `lr_milestones`, `lr_gamma` and `epochs` count.
        rate: What it is after the warm-up, before it falls.
        steps_per_epoch: Steps of an epoch.
    """
    warmup = round(recipe.lr_warmup_epochs * steps_per_epoch)
    found: Any = rate
    if recipe.lr_schedule == "cosine":
        found = Cosine(rate, warmup, recipe.epochs * steps_per_epoch)
    elif recipe.lr_milestones:
        # Keras keeps a value up to its boundary, and counts steps from 0: the last step of the epoch before.
        boundaries = [epoch * steps_per_epoch - 1 for epoch in recipe.lr_milestones]
        values = [rate * recipe.lr_gamma**drops for drops in range(len(boundaries) + 1)]
        found = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
    return Warmup(found, warmup) if warmup else found


@keras.saving.register_keras_serializable(package="zoo")
class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """`rate` up to step `start`, then half a cosine down to 0 at step `end`.

    `rate / 2 (1 + cos(pi (t - start) / (end - start)))` at step t, the first being step 0.

    Args:
        rate: Where it starts.
        start: Steps before it falls.
        end: Steps of the training.

    Reference: Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5, with one period and a minimum of 0.
    """

    def __init__(self, rate: float, start: int, end: int) -> None:
        if not 0 <= start < end:
            raise ValueError(f"The rate must fall over at least one step. Received: start={start}, end={end}")
        self.rate = rate
        self.start = start
        self.end = end

    def __call__(self, step: Any) -> Any:
        share = (ops.cast(step, "float32") - self.start) / (self.end - self.start)
        return 0.5 * self.rate * (1.0 + ops.cos(math.pi * ops.clip(share, 0.0, 1.0)))

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "start": self.start, "end": self.end}


@keras.saving.register_keras_serializable(package="zoo")
class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises linearly at first: times `(t + 1) / steps` at step t, from step 0 on, but at most 1.

    Args:
        rate: A number or a schedule.
        steps: How many steps it takes to the full rate.

    Reference: Goyal et al., "Accurate, large minibatch SGD", 2017, section 2.2 (gradual warm-up).
    """

    def __init__(self, rate: Any, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"`steps` must be positive. Received: steps={steps}")
        self.rate = keras.optimizers.schedules.deserialize(rate) if isinstance(rate, dict) else rate
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        rate = self.rate(step) if callable(self.rate) else self.rate
        return rate * ops.minimum((ops.cast(step, "float32") + 1.0) / self.steps, 1.0)

    def get_config(self) -> dict[str, Any]:
        rate = keras.optimizers.schedules.serialize(self.rate) if callable(self.rate) else self.rate
        return {"rate": rate, "steps": self.steps}
