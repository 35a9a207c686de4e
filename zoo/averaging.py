"""Evaluates a training with the moving average of its weights, where its optimizer keeps one."""

import contextlib
from collections.abc import Iterator
from typing import Any

from keras import ops

from keras_dml.callbacks import RetrievalEvaluation


def take_average(model: Any) -> None:
    """Puts the average in the place of the encoder's weights, for good; without one, and repeated, it does nothing.

    `fit` does so at its end, but a run whose last checkpoint was all that it lacked does not come to `fit`.

    Args:
        model: A `MetricLearner` that has been trained.
    """
    optimizer = _averaging(model)
    if optimizer is None:
        return
    variables = model.encoder.trainable_variables
    optimizer.finalize_variable_values(variables)
    for variable in variables:
        # On JAX the weight is now the array of the average, which the next compiled function would use up.
        variable.assign(ops.copy(variable.value))


@contextlib.contextmanager
def averaged(model: Any) -> Iterator[None]:
    """Within, the encoder has the average of its weights; then those that training goes on with, bit for bit."""
    if _averaging(model) is None:
        yield
        return
    variables = model.encoder.trainable_variables
    before = [ops.copy(variable.value) for variable in variables]
    take_average(model)
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


class AveragedEvaluation(RetrievalEvaluation):
    """`RetrievalEvaluation` of the average of the weights, where the optimizer keeps one."""

    def evaluate(self) -> dict[str, float]:
        """As in the base class, which embeds with the model as it is."""
        with averaged(self.model):
            return super().evaluate()


def _averaging(model: Any) -> Any:
    """The encoder's optimizer, if it averages and has made a step."""
    optimizer = model._encoder_optimizer.optimizer
    used = optimizer.use_ema and int(ops.convert_to_numpy(optimizer.iterations)) > 0
    return optimizer if used and model.encoder.trainable_variables else None
