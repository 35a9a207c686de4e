"""The user's own folder of classes."""

import os

import pytest
from tiny_pictures import save

from keras_dml.data import DataError, load


def classes(folder, *names, count=2):
    for name in names:
        for number in range(count):
            save(folder / name / f"{number}.jpg", number)


def test_first_half_of_the_classes_trains(tmp_path):
    classes(tmp_path, "zebra", "ant", "bear", "cow", "dog")
    benchmark = load("folder", tmp_path)
    assert benchmark.train.class_names == ("ant", "bear", "cow")
    assert benchmark.test.class_names == ("dog", "zebra")
    assert benchmark.test.ids == ("dog/0.jpg", "dog/1.jpg", "zebra/0.jpg", "zebra/1.jpg")
    assert benchmark.gallery is None


def test_given_sides(tmp_path):
    classes(tmp_path / "train", "a", "b")
    classes(tmp_path / "test", "c", "d")
    benchmark = load("folder", tmp_path)
    assert benchmark.train.class_names == ("a", "b")
    assert benchmark.test.ids[0] == "test/c/0.jpg"
    classes(tmp_path / "gallery", "d", "e")
    with pytest.warns(UserWarning, match="2 of 4 queries have no image of their class on the gallery side"):
        benchmark = load("folder", tmp_path)
    assert benchmark.test.class_names == benchmark.gallery.class_names == ("c", "d", "e")
    assert list(benchmark.gallery.labels) == [1, 1, 2, 2]


def test_a_class_on_both_sides_is_an_error(tmp_path):
    classes(tmp_path / "train", "a", "b")
    classes(tmp_path / "test", "b", "c")
    with pytest.raises(DataError, match=r"1 classes have images in train and in test or gallery: b\..*side by side"):
        load("folder", tmp_path)


def test_folders_beside_the_sides_are_named(tmp_path):
    for side in ("train", "test", "val"):
        classes(tmp_path / side, f"{side} a", f"{side} b")
    with pytest.warns(UserWarning, match="train and test, so its other folders are left out: val"):
        benchmark = load("folder", tmp_path)
    assert (len(benchmark.train), len(benchmark.test)) == (4, 4)


def test_links_that_lead_back_bring_no_image_twice(tmp_path):
    classes(tmp_path, "a", "b", "c", "d")
    elsewhere = tmp_path.with_name(f"{tmp_path.name} elsewhere")
    save(elsewhere / "2.jpg", 2)
    (tmp_path / "all").symlink_to(tmp_path)
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(".")
    # A link to images is a folder like any other.
    (tmp_path / "b" / "more").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(tmp_path / "b")
    benchmark = load("folder", tmp_path)
    assert benchmark.train.ids == ("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg", "b/more/2.jpg")
    assert len(benchmark.test) == 4


def test_names_that_are_not_utf_8(tmp_path):
    classes(tmp_path, "a", "b", "c", "d")
    before = load("folder", tmp_path).fingerprint
    (tmp_path / "a" / "0.jpg").rename(tmp_path / "a" / os.fsdecode(b"caf\xe9.jpg"))
    benchmark = load("folder", tmp_path)
    assert benchmark.fingerprint != before
    row = benchmark.train.ids.index("a/caf\udce9.jpg")
    assert benchmark.train.image(row).shape == (30, 40, 3)


def test_hidden_files_and_what_archivers_leave_are_ignored(tmp_path):
    classes(tmp_path, "a", "b", "c", "d", "__MACOSX", ".cache")
    for name in (".DS_Store", "._0.jpg", "Thumbs.db", "notes.txt"):
        (tmp_path / "a" / name).write_bytes(b"x")
    benchmark = load("folder", tmp_path)
    assert benchmark.train.ids == ("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg")
    assert benchmark.test.class_names == ("c", "d")


def test_deeper_folders_and_capital_suffixes_count(tmp_path):
    classes(tmp_path / "images", "a", "b", "c", "d")
    save(tmp_path / "images" / "a" / "more" / "X.JPEG", 1)
    assert load("folder", tmp_path).train.ids[:3] == ("images/a/0.jpg", "images/a/1.jpg", "images/a/more/X.JPEG")


def test_empty_folders_are_named_and_are_no_class(tmp_path):
    classes(tmp_path, "a", "b", "c", "d")
    (tmp_path / "aa_empty").mkdir()
    with pytest.warns(UserWarning, match="aa_empty"):
        benchmark = load("folder", tmp_path)
    assert benchmark.train.class_names == ("a", "b")


def test_images_outside_of_class_folders_are_named(tmp_path):
    classes(tmp_path, "a", "b", "c", "d")
    save(tmp_path / "loose.jpg", 0)
    with pytest.warns(UserWarning, match=r"no class folder.*loose\.jpg"):
        assert len(load("folder", tmp_path).train) == 4


def test_one_given_side_without_the_other(tmp_path):
    classes(tmp_path / "train", "a", "b")
    with pytest.raises(DataError, match="test does not exist"):
        load("folder", tmp_path)


def test_train_can_be_the_name_of_a_class(tmp_path):
    classes(tmp_path, "bus", "car", "ship", "train")
    assert load("folder", tmp_path).test.class_names == ("ship", "train")


def test_images_of_a_kind_that_cannot_be_read_are_named(tmp_path):
    classes(tmp_path, "a", "b", "c", "d")
    (tmp_path / "d" / "scan.tiff").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"scan\.tiff"):
        assert len(load("folder", tmp_path).test) == 4


def test_a_side_that_any_encoder_gets_right_is_refused(tmp_path):
    classes(tmp_path / "train", "a", "b")
    classes(tmp_path / "test", "c")
    with pytest.raises(DataError, match="test side of 'folder' has images of one class only"):
        load("folder", tmp_path)
    classes(tmp_path / "test", "d", count=1)
    with pytest.warns(UserWarning, match="1 of 3 queries have no other image of their class on the test side"):
        load("folder", tmp_path)
    (tmp_path / "test" / "c" / "1.jpg").write_bytes(b"no image")
    with (
        pytest.raises(DataError, match="have no other image"),
        pytest.warns(UserWarning, match=r"left out 1 .*c/1\.jpg"),
    ):
        load("folder", tmp_path, bad_images="skip")
    (tmp_path / "test" / "c" / "1.jpg").unlink()
    with pytest.raises(DataError, match="queries of 'folder' have no other image of their class on the test side"):
        load("folder", tmp_path)


def test_a_gallery_that_any_encoder_gets_right_is_refused(tmp_path):
    classes(tmp_path / "train", "a", "b")
    classes(tmp_path / "test", "c", count=1)
    classes(tmp_path / "gallery", "c")
    with pytest.raises(DataError, match="gallery side of 'folder' has images of one class only"):
        load("folder", tmp_path)
    classes(tmp_path / "gallery", "d")
    assert len(load("folder", tmp_path).test) == 1
    (tmp_path / "gallery" / "c").rename(tmp_path / "gallery" / "e")
    with pytest.raises(DataError, match="queries of 'folder' have no image of their class on the gallery side"):
        load("folder", tmp_path)


def test_one_class_none_or_no_folders(tmp_path):
    with pytest.raises(DataError, match="0 class folders"):
        load("folder", tmp_path)
    classes(tmp_path, "only")
    with pytest.raises(DataError, match="1 class folder "):
        load("folder", tmp_path)
    classes(tmp_path, "second", "third")
    with pytest.raises(DataError, match="3 class folders with images; a training and a test side need two each"):
        load("folder", tmp_path)
    flat = tmp_path / "flat"
    save(flat / "a.jpg", 0)
    with pytest.raises(DataError, match="no class folders"):
        load("folder", flat)
