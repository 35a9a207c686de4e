"""Every layer of the networks against samples of the PyTorch originals (data/, written by make_parity.py)."""

import pathlib

import formula_weights
import numpy as np
import parity_checks
import pytest

DATA = pathlib.Path(__file__).parent / "data"


@pytest.mark.parametrize("name", sorted(formula_weights.IMAGE_SIZES))
def test_every_layer_agrees_with_the_pytorch_network(name, tmp_path):
    checkpoint = tmp_path / "weights.safetensors"
    parity_checks.formula_checkpoint(name, checkpoint)
    with np.load(DATA / f"{name}.npz") as recorded:
        reference = dict(zip(recorded["names"].tolist(), recorded["samples"], strict=True))
    ours = parity_checks.layer_outputs(name, checkpoint)
    parity_checks.compare(ours, reference, formula_weights.sample)
