"""Data sets of every kind with one fault each: at least 300 of them in the whole suite."""

import pickle
import shutil

import numpy as np
import pytest
import scipy.io
import tiny_datasets
from faults import answer, change, copied, some
from tiny_pictures import photograph, save

from keras_dml.data import load, load_revisited


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def cub(root):
    images, labels, boxes = [], [], []
    for label in (1, 2, 101, 102):
        for number in range(2):
            name = f"{label:03d}.Bird/Bird_{label}_{number}.jpg"
            save(root / "images" / name, label + number)
            images.append(f"{len(images) + 1} {name}")
            labels.append(f"{len(images)} {label}")
            boxes.append(f"{len(images)} 4.0 6.0 32.0 18.0")
    for file, lines in (("images", images), ("image_class_labels", labels), ("bounding_boxes", boxes)):
        write(root / f"{file}.txt", "\n".join(lines) + "\n")
    return root.glob("*.txt")


def cars(root):
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    rows = [(f"car_ims/{n}.jpg", 5, 3, 25, 23, label, 0) for n, label in enumerate((1, 1, 2, 2, 99, 99, 100, 100))]
    for number, row in enumerate(rows):
        save(root / row[0], number)
    annotations = np.array(rows, dtype=[(name, object) for name in fields]).reshape(1, -1)
    names = np.array([[f"Car {number}" for number in range(1, 197)]], dtype=object)
    for name, pressed in (("cars_annos.mat", True), ("devkit/cars_meta.mat", False)):
        (root / name).parent.mkdir(exist_ok=True)
        content = {"annotations": annotations, "class_names": names}
        scipy.io.savemat(root / name, content, do_compression=pressed)
    return root.rglob("*.mat")


def products(root):
    for side, classes in (("train", (1, 2)), ("test", (11319, 11320))):
        lines = ["image_id class_id super_class_id path"]
        for label in classes:
            for number in range(2):
                name = f"mug_final/{label}_{number}.JPG"
                (root / name).parent.mkdir(exist_ok=True)
                photograph(label + number).save(root / name, "JPEG")
                lines.append(f"{len(lines)} {label} 8 {name}")
        write(root / f"Ebay_{side}.txt", "\n".join(lines) + "\n")
    return root.glob("*.txt")


def clothes(root):
    rows = [(f"img/{item}/{n}.jpg", item, side) for item, side in (("a", "train"), ("b", "train")) for n in (0, 1)]
    rows += [(f"img/{item}/{side}.jpg", item, side) for item in ("c", "d") for side in ("query", "gallery")]
    for number, row in enumerate(rows):
        save(root / row[0], number)
    lines = [str(len(rows)), "image_name item_id evaluation_status", *("   ".join(row) for row in rows)]
    write(root / "list_eval_partition.txt", "\n".join(lines) + "\n")
    return root.glob("*.txt")


def domains(root):
    for domain in ("real", "clipart"):
        for side in ("train", "test"):
            lines = []
            for label in (0, 172, 173, 174):
                save(root / domain / f"class {label}" / f"{side}.jpg", label)
                lines.append(f"{domain}/class {label}/{side}.jpg {label}")
            write(root / f"{domain}_{side}.txt", "\n".join(lines) + "\n")
    return root.glob("*.txt")


def species(root):
    for side, names in (("train", ("Aves/1", "Aves/2")), ("test", ("Plantae/3", "Plantae/4"))):
        lines = []
        for name in names:
            for number in range(2):
                save(root / "train_val2018" / name / f"{number}.jpg", number)
                lines.append(f"train_val2018/{name}/{number}.jpg")
        write(root / f"Inaturalist_{side}_set1.txt", "\n".join(lines) + "\n")
    return root.glob("*.txt")


def imagenet(root):
    for name in ("n01", "n02", "n03", "n04"):
        for number in (1, 2):
            save(root / "train" / name / f"{number}.JPEG", 1)
    write(root / "train_classes.txt", "n03\nn01\n")
    write(root / "test_classes.txt", "n02\nn04\n")
    return root.glob("*.txt")


def drawings(root):
    np.savez(
        root / "omniglot.npz",
        images=np.random.default_rng(0).integers(0, 2, (8, 105, 105), dtype=np.uint8) * 255,
        labels=np.repeat(np.arange(4), 2),
        is_train=np.arange(8) < 4,
        class_names=np.array(["A/character01", "A/character02", "B/character01", "B/character02"]),
        drawer=np.tile([1, 2], 4),
    )
    return root.glob("*.npz")


def bits(root):
    np.savez_compressed(
        root / "omniglot.npz",
        ink_bits=np.random.default_rng(0).integers(0, 256, (8, 1379), dtype=np.uint8),
        label=np.repeat(np.arange(4), 2),
        is_background=np.arange(8) < 4,
        class_names=np.array(["A_0", "A_1", "B_0", "B_1"]),
    )
    return root.glob("*.npz")


def drawn_folders(root):
    for side in ("background", "evaluation"):
        for character in (1, 2):
            for drawer in (1, 2):
                folder = root / f"images_{side}" / side / f"character{character:02d}"
                save(folder / f"0001_{drawer:02d}.png", drawer, width=105, height=105)
    return root.rglob("*.png")


def folders(root):
    for name in ("a", "b", "c", "d"):
        for number in range(2):
            save(root / name / f"{number}.{'png' if number else 'jpg'}", number)
    return root.rglob("*.*g")


def records(root):
    tiny_datasets.cub200(root, (0, 1, 100, 101), 4)
    return _prepared(root)


def _prepared(root):
    """The files of the one version that are read."""
    shutil.rmtree(root / "downloads", ignore_errors=True)
    version = next(root.glob("*/*/"))
    return [path for path in version.iterdir() if path.name == "dataset_info.json" or "record" in path.name]


def car_records(root):
    tiny_datasets.cars(root)
    return [*_prepared(root), *root.rglob("label.labels.txt")]


def array_records(root):
    records(root)
    tiny_datasets.as_array_records(next(root.glob("*/*/")))
    return _prepared(root)


def landmarks(root):
    gallery, queries = [f"image_{number}" for number in range(4)], ["query_0"]
    for number, name in enumerate(gallery + queries):
        save(root / "jpg" / f"{name}.jpg", number)
    entry = {"bbx": np.array([5.0, 3, 25, 23]), "easy": np.array([0, 2]), "hard": [3], "junk": []}
    content = {"imlist": gallery, "qimlist": queries, "gnd": [entry]}
    (root / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content, 2))
    return root.glob("*.pkl")


def loaded(name):
    def work(root):
        benchmark = load(name, root, subset=True, download=False)
        content = []
        for split in (benchmark.train, benchmark.test):
            bad = split.verify(1)
            if bad:
                raise ValueError(f"{root}: {bad[0]}")
            names = [split.class_names[label] for label in split.labels]
            pixels = [hash(np.asarray(split.image(row)).tobytes()) for row in range(len(split))]
            content.append(sorted(zip(names, pixels, strict=True)))
        return content

    return work


CHECKED = ("omniglot", "omniglot bits", "records", "records of cars", "array records")
"""Kinds whose files carry checksums: what is read is what was written, or nothing."""


KINDS = {
    "cub200_cropped": (cub, loaded("cub200_cropped")),
    "cars196_cropped": (cars, loaded("cars196_cropped")),
    "sop": (products, loaded("sop")),
    "inshop": (clothes, loaded("inshop")),
    "domainnet": (domains, loaded("domainnet_clipart_to_real")),
    "inaturalist2018": (species, loaded("inaturalist2018")),
    "imagenet": (imagenet, loaded("imagenet2010_zero_shot")),
    "omniglot": (drawings, loaded("omniglot")),
    "omniglot bits": (bits, loaded("omniglot")),
    "omniglot folders": (drawn_folders, loaded("omniglot")),
    "folder": (folders, loaded("folder")),
    "records": (records, loaded("cub200_cropped")),
    "records of cars": (car_records, loaded("cars196")),
    "array records": (array_records, loaded("cub200_cropped")),
    "roxford5k": (landmarks, lambda root: load_revisited("roxford5k", root, subset=True)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_data_sets_with_one_fault(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_DML_CACHE", str(tmp_path / "cache"))
    build, work = KINDS[kind]
    template = tmp_path / "template"
    template.mkdir()
    chosen = sorted(build(template))
    expected = work(template)
    found, refused = [], 0
    # Images in folders take seconds to decode: TensorFlow builds a graph for each data set.
    for seed in some(26, 2 if kind == "omniglot folders" else 4):
        root = copied(template, tmp_path / "data")
        done, path = change(root, [root / one.relative_to(template) for one in chosen], seed)
        accepted = []
        wrong, error = answer(lambda root=root, accepted=accepted: accepted.append(work(root)), root, path)
        refused += error is not None
        # A member of an archive that was written anew has the right checksum; names of classes have none.
        unchecked = ": member" in done or "labels.txt" in done
        lines = "line_twice" in done or ("line_gone" in done and "labels.txt" in done)
        checked = lines or (kind in CHECKED and not unchecked)
        if accepted and checked and accepted[0] != expected:
            found.append(f"{done}: accepted, with other images or labels")
        if wrong:
            found.append(f"{done}: {wrong}")
    assert not found, "\n".join(found)
    # Whole again, it is read as ever.
    copied(template, tmp_path / "data")
    work(tmp_path / "data")
    assert refused
