"""`python -m keras_dml.backbones.convert NAME CHECKPOINT OUTPUT`: a checkpoint as Keras weights.

Not needed to use a checkpoint (`weights=` reads it itself), but the result loads with Keras alone.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from keras_dml.backbones.build import backbone_with_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts a checkpoint; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m keras_dml.backbones.convert", description=__doc__)
    parser.add_argument("name", help="the backbone: resnet50, bn_inception, googlenet, or any other name")
    parser.add_argument("checkpoint", type=pathlib.Path, help="PyTorch .pth/.pt/.safetensors, or Keras .h5/.keras")
    parser.add_argument("output", type=pathlib.Path, help="*.weights.h5, or *.keras for the whole backbone")
    parser.add_argument("--size", type=int, default=224, help="side of the input in pixels (default: 224)")
    parser.add_argument("--options", type=_options, default={}, help='of the backbone, as JSON: {"alpha": 0.35}')
    given = parser.parse_args(arguments)
    try:
        if not given.output.name.endswith((".weights.h5", ".keras")):
            raise ValueError(f"The output must end in .weights.h5 or .keras. Received: {given.output}")
        if given.output.exists():
            raise ValueError(f"{given.output} exists. Name another file, or remove it.")
        backbone, report = backbone_with_report(
            given.name, (given.size, given.size, 3), given.options, given.checkpoint
        )
        assert report is not None
        given.output.parent.mkdir(parents=True, exist_ok=True)
        if given.output.suffix == ".keras":
            backbone.save(given.output)
        else:
            backbone.save_weights(given.output)
    except (ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{given.output}: {report.loaded} arrays of {given.name}, {backbone.count_params():,} parameters")
    if report.unused:
        print(f"left out: {', '.join(report.unused)}")
    return 0


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(
            f'{text} is no JSON: {error}. Expected something like {{"alpha": 0.35}}'
        ) from error
    if not isinstance(options, dict):
        raise argparse.ArgumentTypeError(f'{text} is no JSON object. Expected something like {{"alpha": 0.35}}')
    return options


if __name__ == "__main__":
    sys.exit(main())
