"""The picture of queries, neighbors and the map."""

import numpy as np
import pytest
from PIL import Image

from keras_dml.data import Split
from zoo.projection import project
from zoo.retrieval_picture import THUMBNAIL, group_of, map_canvas, retrieval_picture


@pytest.mark.parametrize(
    ("name", "group"), [("GREEK SMALL LETTER CHI", "GREEK"), ("Atlantean/character01", "Atlantean"), ("5", "5")]
)
def test_groups(name, group):
    assert group_of(name) == group


@pytest.mark.parametrize("paper", [0, 255])
def test_ink_in_color_and_photographs(paper):
    """Of drawings the ink alone is seen, in the given color, whatever the paper's; photographs are seen as they are."""
    image = np.full((10, 10, 1), paper, np.uint8)
    image[3:7, 3:7] = 255 - paper
    places = np.array([[0.0, 0.0], [5.0, 2.0]])
    canvas = map_canvas([image, np.repeat(image, 3, axis=2)], [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)], places)
    middle, corner = THUMBNAIL // 2, 1
    assert canvas[middle, middle] == pytest.approx([1.0, 0.0, 0.0], abs=0.15)
    assert canvas[corner, corner] == pytest.approx([1.0, 1.0, 1.0], abs=0.15)
    assert canvas[-middle, -middle] == pytest.approx([(255 - paper) / 255] * 3, abs=0.15)
    assert canvas[-corner, -corner] == pytest.approx([paper / 255] * 3, abs=0.15)
    assert canvas[middle, -middle] == pytest.approx([1.0, 1.0, 1.0])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 255, (12, 10, 10, channels), dtype=np.uint8)
    split = Split(images, np.arange(12) // 2, [f"{'AB'[k % 2]} {k}" for k in range(6)])
    places, method = project(np.random.default_rng(0).normal(size=(12, 4)), "euclidean", "pca", seed=0)
    assert method == "first two principal components"
    path = tmp_path / "picture.png"
    retrieval_picture(path, split, [0, 3], np.array([[1, 2], [2, 5]]), (list(range(12)), places), "title")
    assert Image.open(path).size[0] > Image.open(path).size[1]


def test_without_a_map(tmp_path):
    split = Split(np.zeros((3, 4, 4, 1), np.uint8), [0, 0, 1], ["one", "two"])
    assert project(np.zeros((2, 3)), "cosine", "pca", seed=0) == (None, "")
    retrieval_picture(tmp_path / "x.png", split, [0], np.array([[1, 2]]), None, "title")
    assert (tmp_path / "x.png").stat().st_size > 1000
