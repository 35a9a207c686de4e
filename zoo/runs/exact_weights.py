"""Weights that Keras does not save as they are, in a group of their own beside them in a checkpoint.

A layer with LoRA is saved with the update in its kernel, and starts again with an update of 0, the gradient of which is
0 for ever; DINOv2 of keras-hub interpolates its position embeddings forth and back. A saved encoder is meant that way. A
training that goes on needs what it had.
"""

import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

GROUP = "exact_weights"


def append(encoder: "keras.Model", file: pathlib.Path) -> None:
    """Adds the weights to a `.weights.h5` of a model that holds `encoder`; where there are none, the file stays."""
    import h5py
    import numpy as np

    found = [np.asarray(variable) for variable in _variables(encoder)]
    if not found:
        return
    with h5py.File(file, "a") as store:
        group = store.create_group(GROUP)
        for number, value in enumerate(found):
            group[str(number)] = value


def restore(encoder: "keras.Model", file: pathlib.Path) -> None:
    """Puts the weights back that `append` has saved, after Keras has loaded the file."""
    import h5py

    variables = list(_variables(encoder))
    if not variables:
        return
    with h5py.File(file, "r") as store:
        for number, variable in enumerate(variables):
            variable.assign(store[GROUP][str(number)][()])


def _variables(encoder: "keras.Model") -> Iterator[Any]:
    """Own weights of the layers that are saved otherwise than they are, in a fixed order."""
    for layer in encoder._flatten_layers():
        from_elsewhere = type(layer).save_own_variables.__module__.split(".")[0] == "keras_hub"
        if getattr(layer, "lora_enabled", False) or from_elsewhere:
            yield from (*layer._trainable_variables, *layer._non_trainable_variables)
