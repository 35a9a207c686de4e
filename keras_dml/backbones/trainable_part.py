"""Which part of an encoder trains: all of it, its head, its last blocks, or low-rank updates of its attention."""

from collections.abc import Sequence
from typing import Any

import keras

HEAD_LAYER = "embedding"
"""What `keras_dml.backbones.build` calls the linear layer of the embedding."""
LORA_LAYERS = ("query_dense", "value_dense", "query", "value", "q_proj", "v_proj")
"""Projections of queries and values, as the transformers of keras-hub call them."""

Unit = list[keras.layers.Layer]


def set_trainable_part(encoder: keras.Model, part: str | int) -> None:
    """Freezes all of an encoder but a part; frozen batch normalization runs in inference mode.

    A block is a transformer block where the backbone has these. Elsewhere it is what lies between two places that all
    of the signal goes through, beginning with the first layer that has a kernel: a residual unit, an inception module,
    or a single convolution with the normalization and activation behind it. The last blocks train with all that
    follows them (a final normalization, an attention pooling) and with the linear layer of the embedding; what comes
    before them (patch embedding, position embedding, class token) is frozen.

    Args:
        encoder: A model of `keras_dml.backbones.build`.
        part: "all", "head" for the linear layer alone, or the number of last blocks of the backbone.

    Raises:
        ValueError: For another part, "head" of an encoder without a linear layer, more blocks than there are, a
            backbone whose layers have no known order.
    """
    if part == "all":
        return
    heads = [layer for layer in encoder.layers if layer.name == HEAD_LAYER]
    body = [layer for layer in encoder.layers if layer.name != HEAD_LAYER]
    if part == "head":
        if not heads:
            raise ValueError(
                'trainable="head" trains the linear layer of the embedding, and the encoder has none '
                "(embedding_dim=None). Set embedding_dim, or a number of last blocks"
            )
        for layer in body:
            layer.trainable = False
        return
    if not isinstance(part, int) or isinstance(part, bool) or part < 1:
        raise ValueError(f'`trainable` must be "all", "head" or a number of last blocks. Received: trainable={part!r}')
    before, found = blocks(encoder)
    if part > len(found):
        raise ValueError(
            f"The backbone {encoder.name} has {len(found)} blocks. Received: trainable={part}. Use "
            'trainable="all" to train all of it'
        )
    for layer in [*before, *(layer for block in found[: len(found) - part] for layer in block)]:
        layer.trainable = False


def blocks(encoder: keras.Model) -> tuple[Unit, list[Unit]]:
    """The layers with weights before the first block of a backbone, and its blocks in order.

    Each layer appears once; what follows a block counts as part of it. The linear layer of the embedding is left out.

    Raises:
        ValueError: For a backbone whose layers have no known order.
    """
    # By identity: a backbone within may have a layer of that name too.
    heads = [layer for layer in encoder.layers if layer.name == HEAD_LAYER]
    units = [unit for unit in _units(encoder) if not any(unit[0] is head for head in heads)]
    transformer = [_is_block(unit, units) for unit in units]
    starts = transformer if any(transformer) else [any(map(_has_kernel, unit)) for unit in units]
    before: Unit = []
    found: list[Unit] = []
    for unit, start in zip(units, starts, strict=True):
        if start:
            found.append(list(unit))
        else:
            (found[-1] if found else before).extend(unit)
    return before, found


def enable_lora(encoder: keras.Model, rank: int) -> None:
    """Freezes the backbone of an encoder and adds trainable low-rank updates to its attention.

    `W + A B` with A `(n, rank)` and B `(rank, m)`, B being 0 at first, for the projections W of queries and values
    (Hu et al., "LoRA", ICLR 2022, section 4.1), through keras-hub's `enable_lora`, which also lets the biases of these
    projections train. The linear layer of the embedding trains as ever. A saved encoder has the updates in its kernels.

    Args:
        encoder: A model of `keras_dml.backbones.build`.
        rank: Of the updates.

    Raises:
        ValueError: If the backbone is none of keras-hub's, or has no such projections.
    """
    models = [encoder, *(layer for layer in encoder.layers if isinstance(layer, keras.Model))]
    hub: list[Any] = [model for model in models if hasattr(model, "default_lora_layer_names")]
    if not hub:
        raise ValueError(
            f"LoRA needs a transformer of keras-hub as backbone. Received: lora_rank={rank} and {encoder.name}. "
            'Take backbone="keras_hub:PRESET", or train the last blocks of this one with trainable=2'
        )
    for backbone in hub:
        backbone.enable_lora(rank, target_layer_names=list(LORA_LAYERS))
        if not lora_layers(backbone):
            raise ValueError(
                f"The backbone {backbone.name} has no attention with projections of queries and values, which LoRA "
                f"adds to. Received: lora_rank={rank}. Train its last blocks with trainable=2 instead"
            )


def lora_layers(model: keras.Model) -> list[Any]:
    """The layers of a model that have low-rank updates, in a fixed order."""
    return [layer for layer in model._flatten_layers() if getattr(layer, "lora_enabled", False)]


def _units(model: keras.Model) -> list[Unit]:
    """The weighted layers of a functional model in order, together where the signal takes several ways."""
    if not hasattr(model, "operations"):
        raise ValueError(
            f"The layers of {model.name} have no known order, as it is no functional model. "
            'Use trainable="all" or "head"'
        )
    units: list[Unit] = []
    for operations in _segments(model):
        layers = [one for one in operations if isinstance(one, keras.layers.Layer) and one.weights]
        if len(layers) > 1 and not any(map(_stack, layers)):
            units.append(layers)
            continue
        # Beside a stack of blocks, as rotary position embeddings are, another way of the signal does not matter.
        for layer in layers:
            units += _inside(layer)
    return units


def _inside(layer: keras.layers.Layer) -> list[Unit]:
    """A layer that all of the signal goes through, taken apart where it is a model or a stack of blocks."""
    if isinstance(layer, keras.Model) and hasattr(layer, "operations"):
        return _units(layer)
    stack = _stack(layer)
    if not stack:
        return [[layer]]
    units = [[block] for block in stack]
    # Such as the normalization at the end of a transformer's encoder.
    units[-1] += [child for child in _children(layer) if child.weights and not any(child is block for block in stack)]
    return units


def _stack(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    """The list of blocks that a composite layer keeps: layers of one class, each with layers of its own."""
    for name, value in vars(layer).items():
        if name.startswith("_") or not isinstance(value, list) or not value:
            continue
        if all(isinstance(one, keras.layers.Layer) and type(one) is type(value[0]) and _children(one) for one in value):
            return list(value)
    return []


def _segments(model: Any) -> list[list[Any]]:
    """The operations of a functional model, cut wherever a single tensor is all that the rest depends on."""
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    uses: dict[int, int] = {}
    for node in nodes:
        for tensor in node.input_tensors:
            uses[id(tensor)] = uses.get(id(tensor), 0) + 1
    live: set[int] = set()
    segments: list[list[Any]] = [[]]
    for node in nodes:
        for tensor in node.input_tensors:
            uses[id(tensor)] -= 1
            if not uses[id(tensor)]:
                live.discard(id(tensor))
        live |= {id(tensor) for tensor in node.outputs if uses.get(id(tensor))}
        if not any(node.operation is one for segment in segments for one in segment):
            segments[-1].append(node.operation)
        if len(live) == 1:
            segments.append([])
    return [segment for segment in segments if segment]


def _is_block(unit: Unit, units: Sequence[Unit]) -> bool:
    """Whether a unit is one of several composite layers of one class, or of a stack of them."""
    if len(unit) != 1 and not _children(unit[0]):
        return False
    kind = type(unit[0])
    alike = [other for other in units if type(other[0]) is kind]
    return bool(_children(unit[0])) and not isinstance(unit[0], keras.Model) and len(alike) > 1


def _children(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    return list(layer._flatten_layers(include_self=False, recursive=False))


def _has_kernel(layer: keras.layers.Layer) -> bool:
    return any(len(weight.shape) >= 2 for weight in layer.weights)
