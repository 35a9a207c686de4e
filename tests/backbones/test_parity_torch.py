"""Every layer and value against the PyTorch originals, through real checkpoints, where those packages are."""

import importlib.util

import formula_weights
import parity_checks
import pytest

NEEDED = ("torch", "torchvision", "pretrainedmodels")
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason=f"needs {', '.join(NEEDED)}"
)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", sorted(formula_weights.IMAGE_SIZES))
def test_every_value_agrees_with_the_pytorch_network(name, legacy, tmp_path):
    import torch
    import torch_references

    reference, _ = torch_references.network(name)
    torch_references.fill(reference)
    checkpoint = tmp_path / "weights.pth"
    torch.save(reference.state_dict(), checkpoint, _use_new_zipfile_serialization=not legacy)
    parity_checks.compare(parity_checks.layer_outputs(name, checkpoint), torch_references.layer_outputs(name))
