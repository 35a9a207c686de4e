"""Writes data/*.npz (samples of every layer of the PyTorch networks) and data/tiny_*.pth; needs what
torch_references.py needs. Run from the repository root: python tests/backbones/make_parity.py
"""

import collections
import pathlib

import formula_weights
import numpy as np
import torch
import torch_references

DATA = pathlib.Path(__file__).parent / "data"


def tiny_state():
    """Tensors of many kinds; test_torch_checkpoint.py knows their values."""
    base = torch.arange(24, dtype=torch.float32)
    return collections.OrderedDict(
        [
            ("matrix", base.reshape(2, 3, 4)),
            ("transposed", base.reshape(4, 6).t()),
            ("window", base[5:9]),
            ("half", torch.tensor([0.5, -2.0], dtype=torch.float16)),
            ("brain", torch.tensor([1.5, -3.0], dtype=torch.bfloat16)),
            ("double", torch.tensor([[1e-3]], dtype=torch.float64)),
            ("count", torch.tensor(7)),
            ("flags", torch.tensor([True, False])),
            ("empty", torch.zeros(0, 3)),
            ("parameter", torch.nn.Parameter(torch.full((2,), 4.0))),
        ]
    )


def main():
    DATA.mkdir(exist_ok=True)
    for legacy in (False, True):
        path = DATA / f"tiny_{'legacy' if legacy else 'zip'}.pth"
        torch.save(tiny_state(), path, _use_new_zipfile_serialization=not legacy)
    nested = {"epoch": 3, "arch": "net", "optimizer": {"lr": 0.1, "steps": [1, 2]}, "state_dict": tiny_state()}
    torch.save(nested, DATA / "tiny_nested.pth")
    for name in formula_weights.IMAGE_SIZES:
        outputs = torch_references.layer_outputs(name)
        samples = {key: formula_weights.sample(value) for key, value in outputs.items()}
        keys = sorted(samples)
        np.savez_compressed(DATA / f"{name}.npz", names=keys, samples=np.stack([samples[key] for key in keys]))
        print(name, len(keys), "layers")


if __name__ == "__main__":
    main()
