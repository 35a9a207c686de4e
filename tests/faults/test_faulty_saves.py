"""Run folders, encoders, checkpoints, weights, embeddings and manifests with one fault each: at least 200 of them."""

import json
import pathlib

import h5py
import keras
import numpy as np
import pytest
from faults import answer, change, copied, some

from export import manifest
from export.gallery import Gallery
from keras_dml import ImageEncoder
from keras_dml.backbones import build_backbone
from keras_dml.backbones.torch_checkpoint import read_state_dict
from keras_dml.backbones.weights import load_backbone_weights
from keras_dml.data import ImagePreprocessing
from zoo.compare import read_groups
from zoo.report.experiment import open_experiment
from zoo.report.sections.das import read_das_state
from zoo.runs import open_run
from zoo.runs.checkpoint import Checkpoints

TORCH = pathlib.Path(__file__).parents[1] / "backbones" / "data"
RECIPE = {"ks": [1, 2]}


def encoder(root):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    ImageEncoder(model, ImagePreprocessing(8, channels=1), None, {"name": "tiny"}).save(root)
    return root.iterdir()


def run(root, seed=0):
    encoder(root)
    config = {"format": 1, "name": "toy", "arm": "das", "seed": seed, "recipe": RECIPE, "benchmark": "digits"}
    config |= {"data": {"fingerprint": "x"}, "preprocessing": {"size": 8, "resize": 8, "channels": 1}}
    (root / "run.json").write_text(json.dumps(config))
    (root / "history.json").write_text(json.dumps({"loss": [2.0, 1.0], "recall@1": [0.5, 0.6]}))
    (root / "metrics.json").write_text(json.dumps({"last": {"recall@1": 0.6}, "untrained": {"recall@1": 0.1}}))
    random = np.random.default_rng(0)
    np.savez(
        root / "test_embeddings.npz",
        embeddings=random.normal(size=(12, 4)).astype(np.float32),
        labels=np.repeat(np.arange(3, dtype=np.int32), 4),
        ids=np.array([str(row) for row in range(12)]),
        class_names=np.array(["a", "b", "c"]),
    )
    return [path for path in root.iterdir() if path.name != "encoder.keras"]


def read_run(root):
    saved = open_run(root)
    assert saved.title
    assert saved.ks
    saved.embeddings()
    saved.image_encoder()


def das_state(root):
    run(root)
    random = np.random.default_rng(0)
    np.savez(
        root / "das_state.npz",
        frequency_recorder_matrix=random.integers(0, 9, (3, 4), dtype=np.int32),
        transformation_bank=random.normal(size=(3, 2, 4)).astype(np.float32),
        bank_fill=np.full(3, 2, np.int32),
    )
    return [root / "das_state.npz"]


def experiment(root):
    for seed in (0, 1):
        folder = root / "das" / f"seed-{seed}"
        folder.mkdir(parents=True)
        run(folder, seed)
    names = ["das/seed-0", "das/seed-1"]
    content = {
        "format": 1,
        "name": "toy",
        "recipe": RECIPE,
        "data": {},
        "folds": None,
        "runs": names,
        "exported": names[0],
    }
    (root / "experiment.json").write_text(json.dumps(content))
    rival = {"recall@1": 0.3, "map@r": 0.1}
    (root / "record.json").write_text(json.dumps({"format": 1, "rivals": {"raw pixels": rival}}))
    (root / "metrics.json").write_text(json.dumps({"seeds": [0, 1], "arms": {"das": {"recall@1": [0.6, 0.6]}}}))
    return [
        root / "record.json",
        root / "metrics.json",
        root / "experiment.json",
        *root.rglob("run.json"),
        *root.rglob("metrics.json"),
    ]


def read_experiment(root):
    open_run(root)
    read_groups([root])
    open_experiment(root)


class Model:
    """What a checkpoint is written of, without a network."""

    averaging = None

    def __init__(self):
        self.encoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])

    def save_weights(self, path):
        with h5py.File(path, "w") as store:
            store["weights"] = np.arange(1000.0)


def checkpoints(root):
    from zoo.runs.checkpoint import State

    config = {"recipe": {}, "held_out_classes": None, "data": {}, "weights": None, "sessions": []}
    kept = Checkpoints(root, config)
    state = kept.begin({"recall@1": 0.1})
    for epochs in (1, 2, 3):
        state = State(state.untrained, epochs, {"loss": [1.0] * epochs}, 1.0)
        kept.save(Model(), state)
    return root.iterdir()


def read_checkpoints(root):
    config = {"recipe": {}, "held_out_classes": None, "data": {}, "weights": None, "sessions": []}
    kept = Checkpoints(root, config)
    kept._check_settled = lambda before: None
    state = kept.restore(None, {"now": True})
    # One fault is at most one checkpoint lost.
    assert state is not None
    assert state.epochs >= 2


def torch_file(name):
    def build(root):
        (root / name).write_bytes((TORCH / name).read_bytes())
        return root.iterdir()

    return build


def safetensors(root):
    from safetensors.numpy import save_file

    save_file({"a": np.ones((3, 4), "float32"), "b": np.zeros(2, "int64")}, root / "weights.safetensors")
    return root.iterdir()


def h5_weights(root):
    build_backbone("small_conv", (16, 16, 3), weights=None).save_weights(root / "small.weights.h5")
    return root.iterdir()


def read_h5(root):
    load_backbone_weights(build_backbone("small_conv", (16, 16, 3), weights=None), root / "small.weights.h5")


def manifests(root):
    (root / "a.bin").write_bytes(b"content")
    manifest.write(root, {"name": "toy", "preprocessing": None})
    return root.iterdir()


def read_manifest(root):
    manifest.verify(root, manifest.read(root), checksum=True)


def gallery(root):
    np.savez(root / "g.npz", embeddings=np.eye(5), ids=[str(row) for row in range(5)], label=["a"] * 5, price=[1.0] * 5)
    return root.iterdir()


KINDS = {
    "encoder": (encoder, ImageEncoder.load, 20),
    "das state": (das_state, lambda root: read_das_state(open_run(root)), 20),
    "run": (run, read_run, 40),
    "experiment": (experiment, read_experiment, 40),
    "checkpoints": (checkpoints, read_checkpoints, 40),
    "torch zip": (torch_file("tiny_zip.pth"), lambda root: read_state_dict(root / "tiny_zip.pth"), 30),
    "torch legacy": (torch_file("tiny_legacy.pth"), lambda root: read_state_dict(root / "tiny_legacy.pth"), 30),
    "safetensors": (safetensors, lambda root: read_state_dict(root / "weights.safetensors"), 30),
    "h5": (h5_weights, read_h5, 15),
    "manifest": (manifests, read_manifest, 30),
    "gallery": (gallery, lambda root: Gallery.from_npz(root / "g.npz"), 30),
}


@pytest.mark.parametrize("kind", KINDS)
def test_saved_files_with_one_fault(kind, tmp_path):
    build, work, seeds = KINDS[kind]
    template = tmp_path / "template"
    template.mkdir()
    chosen = sorted(build(template))
    work(copied(template, tmp_path / "saved"))
    found = []
    for seed in some(seeds, 3 if kind in ("encoder", "h5", "run") else 6):
        root = copied(template, tmp_path / "saved")
        done, path = change(root, [root / one.relative_to(template) for one in chosen], seed)
        wrong, _ = answer(lambda root=root: work(root), root, path)
        if wrong:
            found.append(f"{done}: {wrong}")
    assert not found, "\n".join(found)
