"""The README's training example runs unchanged on every backend."""

import pathlib
import re

import numpy as np

README = pathlib.Path(__file__).parents[2] / "README.md"


def test_the_training_example():
    example = re.search(r"```python\n(import keras\n.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    scope = {}
    exec(compile(example[1], "README.md", "exec"), scope)
    history = scope["model"].history.history
    assert {"loss", "val_recall@1", "val_map@r", "produced_distance", "bank_fill"} <= set(history)
    assert np.isfinite(history["loss"]).all()
    assert history["val_map@r"][-1] > history["val_map@r"][0] - 0.1
