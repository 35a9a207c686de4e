"""The user's own folder of classes."""

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
    benchmark = load("folder", tmp_path)
    assert benchmark.test.class_names == benchmark.gallery.class_names == ("c", "d", "e")
    assert list(benchmark.gallery.labels) == [1, 1, 2, 2]


def test_a_class_on_both_sides_is_an_error(tmp_path):
    classes(tmp_path / "train", "a", "b")
    classes(tmp_path / "test", "b", "c")
    with pytest.raises(ValueError, match=r"disjoint.*b"):
        load("folder", tmp_path)


def test_hidden_files_and_what_archivers_leave_are_ignored(tmp_path):
    classes(tmp_path, "a", "b", "__MACOSX", ".cache")
    for name in (".DS_Store", "._0.jpg", "Thumbs.db", "notes.txt"):
        (tmp_path / "a" / name).write_bytes(b"x")
    benchmark = load("folder", tmp_path)
    assert benchmark.train.ids == ("a/0.jpg", "a/1.jpg")
    assert benchmark.test.class_names == ("b",)


def test_deeper_folders_and_capital_suffixes_count(tmp_path):
    classes(tmp_path / "images", "a", "b")
    save(tmp_path / "images" / "a" / "more" / "X.JPEG", 1)
    assert load("folder", tmp_path).train.ids == ("images/a/0.jpg", "images/a/1.jpg", "images/a/more/X.JPEG")


def test_empty_folders_are_named_and_are_no_class(tmp_path):
    classes(tmp_path, "a", "b")
    (tmp_path / "aa_empty").mkdir()
    with pytest.warns(UserWarning, match="aa_empty"):
        benchmark = load("folder", tmp_path)
    assert benchmark.train.class_names == ("a",)


def test_images_outside_of_class_folders_are_named(tmp_path):
    classes(tmp_path, "a", "b")
    save(tmp_path / "loose.jpg", 0)
    with pytest.warns(UserWarning, match=r"no class folder.*loose\.jpg"):
        assert len(load("folder", tmp_path).train) == 2


def test_one_given_side_without_the_other(tmp_path):
    classes(tmp_path / "train", "a", "b")
    with pytest.raises(DataError, match="test does not exist"):
        load("folder", tmp_path)


def test_train_can_be_the_name_of_a_class(tmp_path):
    classes(tmp_path, "bus", "car", "train")
    assert load("folder", tmp_path).test.class_names == ("train",)


def test_images_of_a_kind_that_cannot_be_read_are_named(tmp_path):
    classes(tmp_path, "a", "b")
    (tmp_path / "b" / "scan.tiff").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"scan\.tiff"):
        assert len(load("folder", tmp_path).test) == 2


def test_one_class_none_or_no_folders(tmp_path):
    with pytest.raises(DataError, match="0 class folders"):
        load("folder", tmp_path)
    classes(tmp_path, "only")
    with pytest.raises(DataError, match="1 class folder "):
        load("folder", tmp_path)
    flat = tmp_path / "flat"
    save(flat / "a.jpg", 0)
    with pytest.raises(DataError, match="no class folders"):
        load("folder", flat)
