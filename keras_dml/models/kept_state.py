"""A model whose training failed keeps its weights, on JAX too."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def kept_state(model: keras.Model) -> Iterator[None]:
    """Gives the model its values back where an error ends what is inside.

    On JAX, Keras takes them out of the variables before the first step and puts them back after the last, so that an
    error in between (labels that the loss refuses, say, or Ctrl-C) would leave a model without weights. What is held
    here costs no memory in a compiled step, which takes over the buffers.
    """
    if keras.backend.backend() != "jax":
        yield
        return
    optimizer = [] if model.optimizer is None else model.optimizer.variables
    held = [(variable, variable.value) for variable in (*model.variables, *model.metrics_variables, *optimizer)]
    try:
        yield
    except BaseException:
        # The values after the last step that came to its end; before it, those held.
        model.jax_state_sync()
        for variable, value in held:
            if variable._value is None and not value.is_deleted():
                variable.assign(value)
        raise
