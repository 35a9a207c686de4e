"""The benchmarks, from folders as the original archives unpack."""

import os

import numpy as np
import pytest
import scipy.io
from backend_checks import needs_tensorflow
from tiny_pictures import jpeg, photograph, save

from keras_dml.data import BENCHMARKS, BadImage, DataError, Split, load
from keras_dml.data.benchmarks import imagenet


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def cub_lists(root, classes=(0, 1, 2, 100, 101), per_class=4):
    images, labels, boxes = [], [], []
    for label in classes:
        for number in range(per_class):
            name = f"{label + 1:03d}.Bird_{label}/Bird_{label}_{number:04d}.jpg"
            path = root / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(label * 100 + number))
            index = len(images) + 1
            images.append(f"{index} {name}")
            labels.append(f"{index} {label + 1}")
            boxes.append(f"{index} 4.0 6.0 32.0 18.0")
    write(root / "images.txt", "\n".join(images) + "\n")
    write(root / "image_class_labels.txt", "\n".join(labels) + "\n")
    write(root / "bounding_boxes.txt", "\n".join(boxes) + "\n")


@needs_tensorflow
@pytest.mark.parametrize("name", ["cub200", "cub200_cropped"])
def test_cub200_is_the_same_from_archive_and_records(tmp_path, name):
    cub_lists(tmp_path / "archive" / "CUB_200_2011")
    import tiny_datasets

    tiny_datasets.cub200(tmp_path / "records")
    ours, theirs = (load(name, tmp_path / folder, subset=True) for folder in ("archive", "records"))
    for side in ("train", "test"):
        a, b = getattr(ours, side), getattr(theirs, side)
        assert a.ids == b.ids
        assert a.class_names == b.class_names
        np.testing.assert_array_equal(a.labels, b.labels)
        for row in range(len(a)):
            np.testing.assert_array_equal(a.image(row), b.image(row))


def test_cub200_from_class_folders_with_exactly_the_published_counts(tmp_path, monkeypatch):
    source = save(tmp_path / "one.jpg", 0)
    for label in range(200):
        # 5,864 = 64 * 59 + 36 * 58 and 5,924 = 24 * 60 + 76 * 59.
        count = (59 if label < 64 else 58) if label < 100 else (60 if label < 124 else 59)
        folder = tmp_path / "images" / f"{label + 1:03d}.Bird"
        folder.mkdir(parents=True)
        for number in range(count):
            os.link(source, folder / f"{number}.jpg")
    benchmark = load("cub200", tmp_path)
    assert (len(benchmark.train), len(benchmark.test)) == (5864, 5924)
    assert not benchmark.subset
    # Decoding them all would take long.
    monkeypatch.setattr(Split, "verify", lambda split: [BadImage(3, split.ids[3], "cut off")])
    with pytest.warns(UserWarning, match="left out 2 images"):
        less = load("cub200", tmp_path, bad_images="skip")
    assert (len(less.train), len(less.test)) == (5863, 5923)
    assert less.subset
    (tmp_path / "images" / "007.Bird" / "3.jpg").unlink()
    with pytest.raises(DataError, match="train images 5863 instead of 5864"):
        load("cub200", tmp_path)
    assert len(load("cub200", tmp_path, subset=True).train) == 5863
    with pytest.raises(DataError, match=r"bounding_boxes\.txt"):
        load("cub200_cropped", tmp_path)


def test_a_listed_image_that_is_missing_is_named(tmp_path):
    cub_lists(tmp_path)
    (tmp_path / "images" / "002.Bird_1" / "Bird_1_0002.jpg").unlink()
    with pytest.raises(DataError, match=r"Bird_1_0002\.jpg"):
        load("cub200", tmp_path, subset=True)


@pytest.mark.parametrize("name", ["image_class_labels.txt", "bounding_boxes.txt"])
def test_lists_of_cub200_that_disagree(tmp_path, name):
    cub_lists(tmp_path)
    lines = (tmp_path / name).read_text().splitlines()
    write(tmp_path / name, "\n".join(lines[:-2]))
    with pytest.raises(DataError, match=f"{name} lacks 2 of the 20 images in images.txt. The first: image 19, 102"):
        load("cub200_cropped", tmp_path, subset=True)


def cars_annotations(rows, names):
    kind = [(name, object) for name in names]
    return {"annotations": np.array([tuple(row) for row in rows], dtype=kind).reshape(1, -1)}


def test_cars196_from_the_original_archives(tmp_path):
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    for side, folder, path in (
        ("train", "cars_train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test", "cars_test_annos_withlabels.mat"),
    ):
        rows = []
        for number, label in enumerate((1, 98, 99, 196)):
            save(tmp_path / folder / f"{number + 1:05d}.jpg", number + (10 if side == "test" else 0))
            rows.append((5, 3, 25, 23, label, f"{number + 1:05d}.jpg"))
        (tmp_path / path).parent.mkdir(exist_ok=True)
        scipy.io.savemat(tmp_path / path, cars_annotations(rows, fields))
    meta = np.array([[f"Car {number}" for number in range(1, 197)]], dtype=object)
    scipy.io.savemat(tmp_path / "devkit" / "cars_meta.mat", {"class_names": meta})
    benchmark = load("cars196", tmp_path, subset=True)
    assert benchmark.train.class_names == ("Car 1", "Car 98")
    assert benchmark.test.class_names == ("Car 99", "Car 196")
    assert benchmark.train.ids == ("test/00001", "train/00001", "test/00002", "train/00002")
    cropped = load("cars196_cropped", tmp_path, subset=True)
    image, part = cropped.test.image(2).astype(int), benchmark.test.image(2)[3:23, 5:25].astype(int)
    np.testing.assert_allclose(image, part, atol=16)
    assert abs(image - part).mean() < 1
    (tmp_path / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(DataError, match="cars_test_annos_withlabels"):
        load("cars196", tmp_path, subset=True)


def test_cars196_from_the_single_archive(tmp_path):
    rows = []
    for number, label in enumerate((1, 1, 99, 99, 100)):
        name = f"car_ims/{number + 1:06d}.jpg"
        save(tmp_path / name, number)
        rows.append((name, 5, 3, 25, 23, label, number % 2))
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    meta = np.array([[f"Car {number}" for number in range(1, 197)]], dtype=object)
    scipy.io.savemat(tmp_path / "cars_annos.mat", {**cars_annotations(rows, fields), "class_names": meta})
    with pytest.warns(UserWarning, match="1 of 3 queries have no other image of their class on the test side"):
        benchmark = load("cars196_cropped", tmp_path, subset=True)
    assert (len(benchmark.train), len(benchmark.test)) == (2, 3)
    assert benchmark.test.image(0).shape == (20, 20, 3)
    assert benchmark.test.class_names == ("Car 99", "Car 100")


def test_numbered_class_folders_keep_the_official_order(tmp_path):
    for number in (98, 99, 1, 196):
        for name in "ab":
            save(tmp_path / "images" / f"{number:03d}.Car" / f"{name}.jpg", number)
    benchmark = load("cars196", tmp_path, subset=True)
    assert benchmark.train.class_names == ("001.Car", "098.Car")
    assert benchmark.test.class_names == ("099.Car", "196.Car")
    save(tmp_path / "images" / "Other Car" / "a.jpg", 0)
    with pytest.warns(UserWarning, match=r"1 folders in .* have no number among others .* left out: Other Car"):
        assert load("cars196", tmp_path, subset=True).fingerprint == benchmark.fingerprint
    save(tmp_path / "images" / "197.Car" / "a.jpg", 0)
    with pytest.raises(DataError, match=r"197\.Car"):
        load("cars196", tmp_path, subset=True)


@needs_tensorflow
@pytest.mark.parametrize("sides", [("",), ("images",), ("train", "test")])
def test_cars196_from_class_folders_with_the_official_names(tmp_path, sides):
    # In order of name the second would come first, and the last before the third.
    spelt = {"AM General Hummer SUV 2000": 0, "Acura_RL_Sedan_2012": 1, "Ram C-V Cargo Van Minivan 2012": 171}
    spelt = {**spelt, "smart-fortwo Convertible 2012": 195}
    for side in sides:
        for name, label in spelt.items():
            save(tmp_path / side / name / "a.jpg", label)
            save(tmp_path / side / name / "b.jpg", label)
    benchmark = load("cars196", tmp_path, subset=True)
    assert benchmark.train.class_names == ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    assert benchmark.test.class_names == ("Ram C/V Cargo Van Minivan 2012", "smart fortwo Convertible 2012")
    assert len(benchmark.test) == 4 * len(sides)
    with pytest.raises(DataError, match="boxes"):
        load("cars196_cropped", tmp_path, subset=True)
    save(tmp_path / sides[0] / "Acura Integra Typ R 2001" / "a.jpg", 0)
    with pytest.raises(DataError, match=r"'Acura Integra Typ R 2001' \(did you mean 'Acura Integra Type R 2001'"):
        load("cars196", tmp_path, subset=True)


def test_cub200_from_class_folders_without_numbers_needs_the_list_of_classes(tmp_path):
    for name in ("Zebra_Finch", "ant bird", "Bird-101", "bird 102"):
        for number in range(2):
            save(tmp_path / "images" / name / f"{number}.jpg", 0)
    with pytest.raises(DataError, match=r"classes\.txt"):
        load("cub200", tmp_path, subset=True)
    names = {1: "Zebra_Finch", 2: "Ant_Bird", 101: "Bird_101", 102: "Bird_102"}
    lines = [f"{number} {number:03d}.{names.get(number, f'Other_{number}')}" for number in range(1, 201)]
    write(tmp_path / "classes.txt", "\n".join(lines) + "\n")
    for folder in (tmp_path, tmp_path / "images"):
        benchmark = load("cub200", folder, subset=True)
        assert benchmark.train.class_names == ("Zebra_Finch", "Ant_Bird")
        assert benchmark.test.class_names == ("Bird_101", "Bird_102")
    write(tmp_path / "classes.txt", "\n".join(lines[:-1]))
    with pytest.raises(DataError, match="199 lines"):
        load("cub200", tmp_path, subset=True)


def test_sop_from_its_lists(tmp_path):
    root = tmp_path / "Stanford_Online_Products"
    for side, classes in (("train", (1, 10, 2)), ("test", (11319, 11320))):
        lines = ["image_id class_id super_class_id path"]
        for label in classes:
            for number in range(2):
                name = f"mug_final/{label}_{number}.JPG"
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                photograph(label + number).save(root / name, "JPEG")
                lines.append(f"{len(lines)} {label} 8 {name}")
        write(root / f"Ebay_{side}.txt", "\n".join(lines) + "\n")
    benchmark = load("sop", tmp_path, subset=True)
    assert benchmark.train.class_names == ("00001", "00002", "00010")
    assert benchmark.train.ids[2:4] == ("mug_final/2_0.JPG", "mug_final/2_1.JPG")
    with pytest.raises(DataError, match="train classes 3 instead of 11318"):
        load("sop", tmp_path)


def test_sop_from_class_folders(tmp_path):
    for side, products in (("train", ("7", "12")), ("test", ("11319", "11320"))):
        for product in products:
            for number in range(2):
                save(tmp_path / side / product / f"{number}.JPG", number)
    benchmark = load("sop", tmp_path, subset=True)
    assert benchmark.train.class_names == ("12", "7")
    assert benchmark.test.ids[:2] == ("test/11319/0.JPG", "test/11319/1.JPG")
    with pytest.raises(DataError, match="train classes 2 instead of 11318"):
        load("sop", tmp_path)


@pytest.mark.parametrize("images", ["", "Img"])
def test_inshop(tmp_path, images):
    rows = [
        ("img/WOMEN/a/id_3/1.jpg", "id_00000003", "train"),
        ("img/WOMEN/a/id_3/2.jpg", "id_00000003", "train"),
        ("img/MEN/b/id_1/1.jpg", "id_00000001", "query"),
        ("img/MEN/b/id_2/1.jpg", "id_00000002", "query"),
        ("img/MEN/b/id_2/2.jpg", "id_00000002", "gallery"),
        ("img/MEN/b/id_1/2.jpg", "id_00000001", "gallery"),
    ]
    for number, (name, _, _) in enumerate(rows):
        save(tmp_path / images / name, number)
    lines = [str(len(rows)), "image_name item_id evaluation_status", *("   ".join(row) for row in rows)]
    write(tmp_path / "Eval" / "list_eval_partition.txt", "\n".join(lines) + "\n")
    benchmark = load("inshop", tmp_path, subset=True)
    assert benchmark.train.class_names == ("id_00000003",)
    assert benchmark.test.class_names == benchmark.gallery.class_names == ("id_00000001", "id_00000002")
    np.testing.assert_array_equal(benchmark.test.labels, [0, 1])
    np.testing.assert_array_equal(benchmark.gallery.labels, [0, 1])
    with pytest.raises(DataError, match="gallery images 2 instead of 12612"):
        load("inshop", tmp_path)


@pytest.mark.parametrize(
    ("inside", "lists"), [("", "Inat_dataset_splits"), ("Inaturalist", "Inat_dataset_splits"), ("", "")]
)
def test_inaturalist2018(tmp_path, inside, lists):
    base = tmp_path / inside
    sides = {
        "train": ("Plantae/7477/b.jpg", "Aves/12/a.jpg", "Plantae/7477/a.jpg"),
        "test": ("Plantae/12/a.jpg", "Plantae/12/b.jpg", "Insecta/3/a.jpg", "Insecta/3/b.jpg"),
    }
    for side, names in sides.items():
        for number, name in enumerate(names):
            save(base / "train_val2018" / name, number)
        text = "".join(f"train_val2018/{name}\n" for name in names)
        write(base / lists / f"Inaturalist_{side}_set1.txt", text + "\n")
    benchmark = load("inaturalist2018", tmp_path, subset=True)
    assert benchmark.train.class_names == ("Aves/12", "Plantae/7477")
    assert benchmark.test.class_names == ("Insecta/3", "Plantae/12")
    assert benchmark.train.ids[1:] == ("train_val2018/Plantae/7477/a.jpg", "train_val2018/Plantae/7477/b.jpg")
    np.testing.assert_array_equal(benchmark.train.labels, [0, 1, 1])
    with pytest.raises(
        DataError, match="train classes 2 instead of 5690; train images 3 instead of 325846; test classes 2"
    ):
        load("inaturalist2018", tmp_path)
    (base / "train_val2018" / "Insecta" / "3" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 4 images that .*test_set1\.txt lists are missing: .*3/a\.jpg"):
        load("inaturalist2018", tmp_path, subset=True)
    write(base / lists / "Inaturalist_test_set1.txt", "a.jpg\n")
    with pytest.raises(DataError, match=r"line 1: expected a path as .* Received: 'a\.jpg'"):
        load("inaturalist2018", tmp_path, subset=True)
    (base / lists / "Inaturalist_train_set1.txt").unlink()
    with pytest.raises(DataError, match=r"No Inaturalist_train_set1\.txt .*(\n.*)*Inat_dataset_splits\.zip"):
        load("inaturalist2018", tmp_path, subset=True)


def test_domainnet_from_its_lists(tmp_path):
    for domain in ("real", "clipart"):
        for side in ("train", "test"):
            lines = []
            for label, name in ((0, "aircraft_carrier"), (172, "leg"), (173, "light_bulb"), (174, "lighter")):
                path = f"{domain}/{name}/{side}.jpg"
                save(tmp_path / path, label)
                lines.append(f"{path} {label}")
            write(tmp_path / f"{domain}_{side}.txt", "\n".join(lines) + "\n")
    benchmark = load("domainnet_clipart_to_real", tmp_path, subset=True)
    assert benchmark.train.class_names == ("aircraft_carrier", "leg")
    assert benchmark.test.class_names == benchmark.gallery.class_names == ("light_bulb", "lighter")
    assert benchmark.test.ids[:2] == ("clipart/light_bulb/test.jpg", "clipart/light_bulb/train.jpg")
    with pytest.raises(DataError, match="172947 images"):
        load("domainnet_clipart", tmp_path)
    write(tmp_path / "real_test.txt", "real/leg/test.jpg 345\n")
    with pytest.raises(DataError, match=r"real_test\.txt, line 1: expected the class to be .* from 0 to 344"):
        load("domainnet_clipart", tmp_path, subset=True)


def test_imagenet_2010(tmp_path, monkeypatch):
    for name in ("n01", "n02", "n03", "n04"):
        for number in (1, 2):
            save(tmp_path / "train" / name / f"{name}_{number}.JPEG", 1)
    with pytest.raises(DataError, match="test side"):
        load("imagenet2010_zero_shot", tmp_path, subset=True)
    write(tmp_path / "train_classes.txt", "n03\nn01\n")
    with pytest.raises(DataError, match="both"):
        load("imagenet2010_zero_shot", tmp_path, subset=True)
    write(tmp_path / "test_classes.txt", "n02\nn04\n")
    benchmark = load("imagenet2010_zero_shot", tmp_path, subset=True)
    assert benchmark.train.class_names == ("n03", "n01")
    assert benchmark.test.class_names == ("n02", "n04")
    with pytest.raises(
        DataError, match=r"1261406 training images in 1000 classes. Received: 8 in 4 classes, in [^ ]* To"
    ):
        load("imagenet2010_zero_shot", tmp_path)
    monkeypatch.setattr(imagenet, "IMAGES_2012", 8)
    with pytest.raises(DataError, match=r"Received: 8 .* That is ILSVRC-2012, which has other classes"):
        load("imagenet2010_zero_shot", tmp_path)
    monkeypatch.setattr(imagenet, "IMAGES_2010", 8)
    with pytest.raises(DataError, match="train classes 2 instead of 800"):
        load("imagenet2010_zero_shot", tmp_path)


def test_imagenet_10k_leaves_out_classes_that_were_trained_on(tmp_path, monkeypatch):
    for name in ("n01", "n02"):
        save(tmp_path / "imagenet2010" / "train" / name / "1.JPEG", 1)
    for side in ("query", "gallery"):
        for name in ("n01", "n05", "n04"):
            save(tmp_path / "imagenet10k" / side / name / f"{side}.JPEG", 1)
    benchmark = load("imagenet10k_transfer", tmp_path, subset=True)
    assert benchmark.test.class_names == benchmark.gallery.class_names == ("n04", "n05")
    monkeypatch.setattr(imagenet, "IMAGES_2010", 2)
    with pytest.raises(DataError, match="10184 classes"):
        load("imagenet10k_transfer", tmp_path)


def characters(random, count):
    return (random.random((count, 105, 105)) < 0.1).astype(np.uint8)


def test_omniglot_is_the_same_from_folders_and_from_both_kinds_of_archive(tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    ink = characters(random, 12)
    labels = np.repeat(np.arange(4), 3)
    names = ["Greek/character01", "Greek/character02", "Ogham/character01", "Ogham/character02"]
    train = labels < 2
    drawers = np.tile([1, 2, 3], 4)
    for drawing, label, drawer in zip(ink, labels, drawers, strict=True):
        folder = tmp_path / "folders" / ("images_background" if label < 2 else "images_evaluation") / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        # The originals have one bit per pixel.
        Image.fromarray(255 * (1 - drawing)).convert("1").save(folder / f"{label:04d}_{drawer:02d}.png")
    shuffled = random.permutation(12)
    np.savez(
        tmp_path / "bits.npz",
        ink_bits=np.packbits(ink.reshape(12, -1), axis=1)[shuffled],
        label=labels[shuffled],
        is_background=train[shuffled],
        drawer=drawers[shuffled],
        class_names=["background/" + name if number < 2 else "evaluation/" + name for number, name in enumerate(names)],
    )
    (tmp_path / "own").mkdir()
    np.savez(
        tmp_path / "own" / "omniglot.npz",
        images=255 * (1 - ink),
        labels=labels,
        is_train=train,
        class_names=names,
    )
    sources = [load("omniglot", tmp_path / name, subset=True) for name in ("folders", "bits.npz", "own")]
    for benchmark in sources:
        for side in ("train", "test"):
            found, expected = getattr(benchmark, side), getattr(sources[0], side)
            order = np.argsort(found.ids)
            assert [found.ids[row] for row in order] == list(expected.ids)
            assert found.class_names == expected.class_names
            np.testing.assert_array_equal(found.labels[order], expected.labels)
            np.testing.assert_array_equal(found.images[order], expected.images)
    for number in range(2):
        np.savez(tmp_path / "folders" / f"other_{number}.npz", scores=np.zeros(3))
    assert load("omniglot", tmp_path / "folders", subset=True).fingerprint == sources[0].fingerprint
    np.testing.assert_array_equal(sources[0].train.images[..., 0], 255 * (1 - ink[:6]))
    assert sources[0].fingerprint == sources[2].fingerprint


def test_a_bad_drawing_of_omniglot_is_named_or_skipped(tmp_path):
    from PIL import Image

    for side, alphabet in (("background", "Greek"), ("evaluation", "Ogham")):
        for character in ("character01", "character02"):
            folder = tmp_path / f"images_{side}" / alphabet / character
            folder.mkdir(parents=True)
            for number in (1, 2):
                Image.new("1", (105, 105), 1).save(folder / f"0001_{number:02d}.png")
    bad = tmp_path / "images_background" / "Greek" / "character01" / "0001_02.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(DataError, match=r"'Greek/character01/02'.*bad_images="):
        load("omniglot", tmp_path, subset=True)
    with pytest.warns(UserWarning, match="Greek/character01/02"):
        benchmark = load("omniglot", tmp_path, subset=True, bad_images="skip")
    assert benchmark.train.ids == ("Greek/character01/01", "Greek/character02/01", "Greek/character02/02")
    assert benchmark.train.images.shape == (3, 105, 105, 1)


def test_omniglot_says_which_fields_it_needs(tmp_path):
    np.savez(tmp_path / "other.npz", pictures=np.zeros(3))
    with pytest.raises(DataError, match=r"pictures.*\n[^$]*is_train"):
        load("omniglot", tmp_path)
    whole = {
        "images": np.zeros((2, 105, 105), np.uint8),
        "labels": [0, 1],
        "is_train": [1, 0],
        "class_names": ["a", "b"],
    }
    for wrong in ({"labels": [0]}, {"is_train": [1, 0, 1]}, {"labels": [0, 2]}, {"labels": [-1, 0]}):
        np.savez(tmp_path / "other.npz", **{**whole, **wrong})
        with pytest.raises(DataError, match="every image needs a label"):
            load("omniglot", tmp_path, subset=True)
    (tmp_path / "second.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 \.npz files"):
        load("omniglot", tmp_path)


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in ("digits", "glyphs")])
def test_a_folder_without_the_data_is_an_error_that_says_what_is_expected(tmp_path, name):
    with pytest.raises(DataError) as error:
        load(name, tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "xpect" in str(error.value) or "Looked for" in str(error.value)
    with pytest.raises(DataError):
        load(name, tmp_path / "nowhere")


def test_nothing_is_downloaded_into_a_folder_unless_that_is_said(tmp_path, monkeypatch):
    from keras_dml.data import tfrecords

    asked = []
    monkeypatch.setattr(tfrecords, "find_prepared", lambda *arguments: None)

    def fake(data_dir, *arguments, **keywords):
        asked.append(data_dir)
        raise DataError("stop")

    monkeypatch.setattr(tfrecords, "download", fake)
    monkeypatch.setenv("TFDS_DATA_DIR", "/the/usual/place")
    for arguments, advice in (
        ({"data_dir": tmp_path}, r"Without a data folder \(data_dir, --data-dir\).*in /the/usual/place"),
        ({"download": False}, r"not in /the/usual/place.*Leave out download=False.*give the folder"),
    ):
        with pytest.raises(DataError, match=advice):
            load("cub200", **arguments)
    assert not asked
    for arguments in ({}, {"data_dir": tmp_path, "download": True}):
        with pytest.raises(DataError, match="stop"):
            load("cub200", **arguments)
    assert asked == [None, tmp_path]
