"""Lists and folders that are wrong in one place: the error names the file and the line."""

import os
import threading

import numpy as np
import pytest
import scipy.io
from test_benchmarks_from_folders import cars_annotations, cub_lists, write
from tiny_pictures import photograph, save

from keras_dml.data import DataError, load


def change_line(path, number, text):
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("images.txt", "2 001.Bird_0/Bird_0_0002.jpg", r"line 2: expected every number once, but line 1 has 2 already"),
        ("images.txt", "21 001.Bird_0/Bird_0_0001.jpg", r"line 2: expected every image once, but line 1 has 001\.Bird"),
        ("images.txt", "one 001.Bird_0/Bird_0_0001.jpg", "line 2: expected the number to be a whole number"),
        ("images.txt", "2", "line 2: expected 2 fields, number path"),
        ("image_class_labels.txt", "2 900000000", "line 2: expected the class to be a whole number from 1 to 200"),
        ("image_class_labels.txt", "2 0", "line 2: expected the class"),
        ("image_class_labels.txt", "2 1.5", "line 2: expected the class"),
        ("image_class_labels.txt", "2 " + "9" * 200, "line 2: expected the class"),
        ("image_class_labels.txt", "2 " + "9" * 6000, "line 2: longer than 4096 bytes"),
        ("image_class_labels.txt", "2", "line 2: expected 2 fields, number class"),
        ("bounding_boxes.txt", "2 nan 6.0 32.0 18.0", "line 2: expected x to be a finite number"),
        ("bounding_boxes.txt", "2 4.0 6.0 32.0", "line 2: expected 5 fields, number x y width height"),
        ("bounding_boxes.txt", "2 4.0 6.0 0.0 18.0", "line 2: expected a box with an area"),
        ("bounding_boxes.txt", "2 -4.0 6.0 32.0 18.0", "line 2: expected a box with an area"),
        ("bounding_boxes.txt", "2 4.0 6.0 320.0 18.0", r"1 of 20 boxes .* beyond their images.*0001\.jpg: .*30 x 40"),
        ("images.txt", "2 \0", "line 2: holds a zero byte"),
    ],
)
def test_a_wrong_line_of_cub200(tmp_path, file, text, message):
    cub_lists(tmp_path)
    # The first line is of image 2 where that number is wanted twice.
    if "line 1 has" in message:
        change_line(tmp_path / file, 1, "2 001.Bird_0/Bird_0_0001.jpg")
    change_line(tmp_path / file, 2, text)
    with pytest.raises(DataError, match=rf"{file}(: |, ){message}"):
        load("cub200_cropped", tmp_path, subset=True)


def test_a_list_that_is_not_text(tmp_path):
    cub_lists(tmp_path)
    (tmp_path / "images.txt").write_bytes("1 Möwe.jpg\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"images\.txt, line 1: not UTF-8 text"):
        load("cub200", tmp_path, subset=True)
    (tmp_path / "images.txt").write_bytes(b"x" * 100_000)
    with pytest.raises(DataError, match=r"images\.txt, line 1: longer than"):
        load("cub200", tmp_path, subset=True)


@pytest.fixture
def products(tmp_path):
    for side, classes in (("train", (1, 2)), ("test", (11319, 11320))):
        lines = ["image_id class_id super_class_id path"]
        for label in classes:
            for number in range(2):
                name = f"mug_final/{label}_{number}.JPG"
                (tmp_path / name).parent.mkdir(exist_ok=True)
                photograph(label + number).save(tmp_path / name, "JPEG")
                lines.append(f"{len(lines)} {label} 8 {name}")
        write(tmp_path / f"Ebay_{side}.txt", "\n".join(lines) + "\n")
    return tmp_path


def test_sop_without_its_header_loses_nothing(products):
    path = products / "Ebay_train.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert len(load("sop", products, subset=True).train) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 1 8", "expected 4 fields, image_id class_id super_class_id path"),
        ("2 x 8 mug_final/1_1.JPG", "expected class_id to be a whole number from 1 to 22634"),
        ("1 1 8 mug_final/1_1.JPG", "expected every image_id once, but line 2 has 1 already"),
        ("2 1 8 mug_final/1_0.JPG", "expected every path once, but line 2 has mug_final/1_0.JPG already"),
    ],
)
def test_a_wrong_line_of_sop(products, text, message):
    change_line(products / "Ebay_train.txt", 3, text)
    with pytest.raises(DataError, match=rf"Ebay_train\.txt, line 3: {message}"):
        load("sop", products, subset=True)


def test_an_empty_or_wrong_list_of_domainnet(tmp_path):
    for domain in ("real", "clipart"):
        for side in ("train", "test"):
            lines = []
            for label in (0, 172, 173, 174):
                path = f"{domain}/class{label}/{side}.jpg"
                save(tmp_path / path, label)
                lines.append(f"{path} {label}")
            write(tmp_path / f"{domain}_{side}.txt", "\n".join(lines) + "\n")
    assert len(load("domainnet_clipart", tmp_path, subset=True).train) == 4
    path = tmp_path / "real_test.txt"
    good = path.read_text()
    for text, message in (
        ("", r"real_test\.txt is empty"),
        ("real/class0/test.jpg\n", r"real_test\.txt, line 1: expected the path of an image and its class"),
        ("real/class0/test.jpg 0\n" * 2, r"real_test\.txt, line 2: expected every image once, but line 1"),
        ("real/class0/train.jpg 0\n", r"real_test\.txt, line 1: expected an image that real_train\.txt does not list"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            load("domainnet_clipart", tmp_path, subset=True)
    path.write_text(good)
    assert len(load("domainnet_clipart", tmp_path, subset=True).train) == 4


def test_a_wrong_line_of_inshop(tmp_path):
    write(tmp_path / "list_eval_partition.txt", "1\nimage_name item_id evaluation_status\nimg/a.jpg id_1\n")
    with pytest.raises(DataError, match=r"list_eval_partition\.txt, line 3: expected 3 fields, image_name item_id"):
        load("inshop", tmp_path, subset=True)
    write(tmp_path / "list_eval_partition.txt", "1\nimage_name item_id evaluation_status\nimg/a.jpg id_1 traim\n")
    with pytest.raises(DataError, match=r"line 3: expected the status train, query or gallery"):
        load("inshop", tmp_path, subset=True)


@pytest.mark.parametrize("kind", ["empty", "text", "v7.3", "half", "no variable", "no structure", "no field", "packed"])
def test_annotations_of_cars196_that_are_something_else(tmp_path, kind):
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    rows = [(f"car_ims/{number}.jpg", 5, 3, 25, 23, label, 0) for number, label in enumerate((1, 1, 99, 99, 100, 100))]
    for number in range(len(rows)):
        save(tmp_path / "car_ims" / f"{number}.jpg", number)
    names = {"class_names": np.array([[f"Car {number}" for number in range(1, 197)]], dtype=object)}
    path = tmp_path / "cars_annos.mat"
    scipy.io.savemat(path, {**cars_annotations(rows, fields), **names})
    assert len(load("cars196", tmp_path, subset=True).test) == 4
    good = path.read_bytes()
    message = r"cars_annos\.mat is damaged"
    if kind == "empty":
        path.write_bytes(b"")
        message = r"cars_annos\.mat is empty"
    elif kind == "text":
        path.write_bytes(b"404 Not Found" * 20)
        message = r"cars_annos\.mat is no MATLAB file"
    elif kind == "v7.3":
        path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n")
        message = r"cars_annos\.mat is a MATLAB file of version 7\.3.* with -v7"
    elif kind == "half":
        path.write_bytes(good[: len(good) // 2])
    elif kind == "no variable":
        scipy.io.savemat(path, names)
        message = r"cars_annos\.mat has no variable annotations; it holds: class_names"
    elif kind == "no structure":
        scipy.io.savemat(path, {"annotations": np.arange(5), **names})
        message = r"cars_annos\.mat: annotations must be a structure"
    elif kind == "no field":
        scipy.io.savemat(
            path, {**cars_annotations([row[:3] + row[4:] for row in rows], fields[:3] + fields[4:]), **names}
        )
        message = r"cars_annos\.mat: annotations lacks bbox_x2"
    else:
        scipy.io.savemat(path, {"annotations": np.zeros(200 * 2**20, np.uint8)}, do_compression=True)
        message = r"cars_annos\.mat is damaged: it unpacks to more than"
    with pytest.raises(DataError, match=message):
        load("cars196", tmp_path, subset=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("car_ims/0.jpg", 5, 3, 25, 23, 197, 0), "class must be a number from 1 to 196"),
        (("car_ims/0.jpg", 5, 3, 5, 23, 1, 0), "the box .* must have an area"),
        (("car_ims/0.jpg", 5, float("nan"), 25, 23, 1, 0), "the box .* must have an area"),
        (("", 5, 3, 25, 23, 1, 0), "relative_im_path must be the name of an image"),
    ],
)
def test_a_wrong_annotation_of_cars196(tmp_path, row, message):
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    good = ("car_ims/1.jpg", 5, 3, 25, 23, 1, 0)
    scipy.io.savemat(tmp_path / "cars_annos.mat", cars_annotations([good, row], fields))
    with pytest.raises(DataError, match=rf"cars_annos\.mat, annotation 2: {message}"):
        load("cars196", tmp_path, subset=True)


def class_folders(root, classes=4, per_class=2):
    for label in range(classes):
        for number in range(per_class):
            save(root / f"class{label}" / f"{number}.jpg", label)


def test_skip_that_leaves_one_training_class(tmp_path):
    class_folders(tmp_path)
    for number in range(2):
        (tmp_path / "class1" / f"{number}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"Without the 2 images .* training side .* one class only.*class1/0\.jpg"):
        load("folder", tmp_path, bad_images="skip")


def test_nested_class_folders_are_named(tmp_path):
    class_folders(tmp_path)
    for name in ("cat", "dog"):
        save(tmp_path / "class0" / name / "a.jpg", 0)
    (tmp_path / "class0" / "0.jpg").unlink()
    (tmp_path / "class0" / "1.jpg").unlink()
    with pytest.warns(UserWarning, match=r"1 classes in .* several folders below.*: class0 \(cat, dog\)"):
        load("folder", tmp_path)


def test_a_pipe_with_the_name_of_an_image_does_not_hang(tmp_path):
    class_folders(tmp_path)
    os.mkfifo(tmp_path / "class0" / "2.jpg")
    loaded = []

    def work():
        with pytest.warns(UserWarning, match=r"1 entries in .*class0 have the name of an image .* left out.*2\.jpg"):
            loaded.append(load("folder", tmp_path, bad_images="skip"))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert len(loaded[0].train) == 4
