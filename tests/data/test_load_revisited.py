"""Revisited Oxford and Paris, from an annotation file and images as their authors publish them."""

import pickle

import numpy as np
import pytest
from tiny_pictures import save

from keras_dml import evaluation
from keras_dml.data import DataError, load_revisited

GALLERY = [f"oxford_{number:06d}" for number in range(6)]
QUERIES = ["all_souls_000013", "radcliffe_camera_000001"]


def content():
    return {
        "imlist": list(GALLERY),
        "qimlist": list(QUERIES),
        "gnd": [
            {"bbx": [5.2, 3.4, 25.0, 23.0], "easy": np.array([0, 2]), "hard": [3], "junk": np.zeros(0, int)},
            {"bbx": np.array([0.0, 0.0, 40.0, 30.0]), "easy": [], "hard": np.array([1]), "junk": [5]},
        ],
    }


def write(root, name="roxford5k", change=lambda data: None):
    root.mkdir(parents=True, exist_ok=True)
    data = content()
    change(data)
    (root / f"gnd_{name}.pkl").write_bytes(pickle.dumps(data, 2))
    return root


def images(folder):
    for number, name in enumerate(GALLERY + QUERIES):
        save(folder / f"{name}.jpg", number)


@pytest.mark.parametrize(("inside", "folder"), [("", "jpg"), ("roxford5k", "images"), ("", "")])
def test_loaded(tmp_path, inside, folder):
    root = write(tmp_path / inside)
    images(root / folder)
    found = load_revisited("roxford5k", tmp_path, subset=True)
    assert found.subset
    assert (len(found.queries), len(found.gallery)) == (2, 6)
    assert found.gallery.ids[1] == f"{folder}/oxford_000001.jpg".lstrip("/")
    np.testing.assert_array_equal(found.truth[0]["easy"], [0, 2])
    assert [len(entry["junk"]) for entry in found.truth] == [0, 1]
    # Left 5, top 3, right 25, bottom 23 of 40 x 30 pixels.
    assert found.queries.image(0).shape == (20, 20, 3)
    assert found.queries.image(1).shape == found.gallery.image(0).shape == (30, 40, 3)
    scores = evaluation.revisited_map(np.eye(2, 6), np.eye(6), found.truth)
    assert scores["hard"].map < scores["medium"].map < 1
    with pytest.raises(DataError, match="2 queries instead of 70 and 6 images instead of 4993"):
        load_revisited("roxford5k", tmp_path)


def test_the_whole_benchmark(tmp_path):
    """With the counts of the real one; the image files are one."""

    def whole(data):
        data["imlist"] = [f"paris_{number:06d}" for number in range(6322)]
        data["qimlist"] = [f"query_{number}" for number in range(70)]
        data["gnd"] = [data["gnd"][0]] * 70

    root = write(tmp_path, "rparis6k", whole)
    one = save(tmp_path / "one.jpg", 0)
    for name in [f"paris_{number:06d}" for number in range(6322)] + [f"query_{number}" for number in range(70)]:
        (root / f"{name}.jpg").hardlink_to(one)
    found = load_revisited("rparis6k", root)
    assert (len(found.queries), len(found.gallery), found.subset) == (70, 6322, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("imlist"), "'imlist', a list of names"),
        (lambda data: data["imlist"].append("../secret"), "file name alone. Received: '../secret'"),
        (lambda data: data["gnd"].pop(), "'gnd' must be a list of 2 entries"),
        (lambda data: data["gnd"][1].pop("bbx"), "'radcliffe_camera_000001' must have four numbers as its box"),
        (lambda data: data["gnd"][0].update(bbx=[5, 3, 5, 9]), "box of the query 'all_souls_000013' is empty"),
        (lambda data: data["gnd"][0].update(hard=[6]), "'hard' of the query .* must be rows .* from 0 to 5. Received"),
        (lambda data: data["gnd"][0].update(junk=[0.5]), "'junk' of the query"),
        (lambda data: data.update(gnd=pickle.Pickler), "is not a pickle of plain data"),
    ],
)
def test_wrong_annotations(tmp_path, change, message):
    write(tmp_path, change=change)
    images(tmp_path / "jpg")
    with pytest.raises(DataError, match=message):
        load_revisited("roxford5k", tmp_path, subset=True)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"'roxford'\. Did you mean 'roxford5k'"):
        load_revisited("roxford", tmp_path)
    with pytest.raises(DataError, match=r"No gnd_roxford5k\.pkl.*(\n.*)*oxbuild_images\.tgz"):
        load_revisited("roxford5k", tmp_path)
    write(tmp_path)
    images(tmp_path / "jpg")
    (tmp_path / "jpg" / f"{GALLERY[2]}.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 6 images are missing: .*oxford_000002\.jpg"):
        load_revisited("roxford5k", tmp_path, subset=True)
