"""UnED in the authors' format, written small, and its metrics against loops."""

import json

import numpy as np
import pytest
from tiny_pictures import jpeg

from keras_dml.data import DataError, load_uned
from keras_dml.evaluation import uned_scores


def write(root, entries):
    for domain, parts in entries.items():
        for part, rows in parts.items():
            path = root / "info_files" / domain / f"{part}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps([{"path": name, "class_id": classes} for name, classes in rows]))
            for number, (name, _) in enumerate(rows):
                image = root / "images" / name
                image.parent.mkdir(parents=True, exist_ok=True)
                image.write_bytes(jpeg(number))


ENTRIES = {
    # Queries that are the gallery, and queries with one of their own; classes 0 of both differ.
    "cars": {"test": [(f"cars/car_ims/{n}.jpg", n % 2) for n in range(6)]},
    "met": {
        "test": [("met/q0.jpg", 0), ("met/q1.jpg", [1, 2]), ("met/q2.jpg", [2, 9])],
        "index": [(f"met/MET/{n}.jpg", n % 3) for n in range(7)],
        "val": [("met/v0.jpg", 1)],
        "small_index": [("met/MET/s0.jpg", 1), ("met/MET/s1.jpg", 3)],
    },
}
DOMAINS = ("cars", "met")


@pytest.fixture
def root(tmp_path):
    write(tmp_path, ENTRIES)
    return tmp_path


def test_load(root):
    found = load_uned(root, domains=DOMAINS, subset=True)
    assert len(found.queries) == 9
    assert len(found.gallery) == 13
    assert found.gallery.class_names == ("cars/0", "cars/1", "met/0", "met/1", "met/2")
    assert [list(classes) for classes in found.query_classes[6:]] == [[2], [3, 4], [4]]
    assert [found.domains[label] for label in found.queries.labels] == ["cars"] * 6 + ["met"] * 3
    assert set(found.queries.ids[:6]) <= set(found.gallery.ids)
    assert found.queries.image(0).ndim == 3
    validation = load_uned(root, "val", domains=("met",), subset=True)
    assert len(validation.gallery) == 2


def test_scores_beside_loops(root):
    found = load_uned(root, domains=DOMAINS, subset=True)
    random = np.random.default_rng(0)
    gallery = random.normal(size=(13, 4))
    queries = np.concatenate([gallery[:6], random.normal(size=(3, 4))])
    scores = uned_scores(found, queries, gallery, k=5)
    recall, precision = {"cars": [], "met": []}, {"cars": [], "met": []}
    for row, right in enumerate(found.query_classes):
        cosines = [
            (-float(queries[row] @ g) / np.linalg.norm(g), place)
            for place, g in enumerate(gallery)
            if found.gallery.ids[place] != found.queries.ids[row]
        ]
        ranked = [found.gallery.labels[place] in right for _, place in sorted(cosines)]
        least = min(5, sum(ranked))
        domain = found.domains[found.queries.labels[row]]
        recall[domain].append(ranked[0])
        precision[domain].append(sum(ranked[:least]) / least)
    for domain in DOMAINS:
        assert scores.recall_at_1[domain] == pytest.approx(np.mean(recall[domain]))
        assert scores.mmp_at_k[domain] == pytest.approx(np.mean(precision[domain]))
    assert scores.mean_mmp_at_k == pytest.approx(np.mean([np.mean(values) for values in precision.values()]))
    assert scores.mean_recall_at_1 == pytest.approx(np.mean([np.mean(values) for values in recall.values()]))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda root: (root / "info_files/met/index.json").unlink(), "index.json is missing"),
        (lambda root: (root / "info_files/met/index.json").write_text("[{"), "is not JSON"),
        (lambda root: (root / "info_files/cars/test.json").write_text("{}"), "must be a list"),
        (
            lambda root: (root / "info_files/cars/test.json").write_text('[{"path": "../x.jpg", "class_id": 1}]'),
            "entry 0",
        ),
        (
            lambda root: (root / "info_files/cars/test.json").write_text('[{"path": "x.jpg", "class_id": "1"}]'),
            "entry 0",
        ),
        (lambda root: (root / "images/met/q0.jpg").unlink(), "1 of 9 images are missing"),
        (
            lambda root: (root / "info_files/met/test.json").write_text('[{"path": "met/q0.jpg", "class_id": 8}]'),
            "no image of the class",
        ),
    ],
)
def test_damaged(root, change, text):
    change(root)
    with pytest.raises(DataError, match=text):
        load_uned(root, domains=DOMAINS, subset=True)


def test_counts_and_names(root):
    with pytest.raises(DataError, match="lists 6 images instead of 8131"):
        load_uned(root, domains=DOMAINS)
    with pytest.raises(ValueError, match="Did you mean 'cars'"):
        load_uned(root, domains=("car",), subset=True)
    with pytest.raises(ValueError, match='"test" or "val"'):
        load_uned(root, "train")


def test_a_query_alone_in_its_class(root):
    write(root, {"cars": {"test": [("cars/car_ims/0.jpg", 0), ("cars/car_ims/1.jpg", 1)]}})
    found = load_uned(root, domains=("cars",), subset=True)
    with pytest.raises(ValueError, match="no other image"):
        uned_scores(found, np.eye(2), np.eye(2))
