"""Arrays out of files that may be anything: what is wrong is named, and no memory is asked for in vain."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from keras_dml.data import DataError, load
from keras_dml.data.reading import ArraySpec, read_npz

SPECS = {"values": ArraySpec("f", (None, 2), "(n, 2) floats"), "names": ArraySpec("U", (None,), "text", optional=True)}


def header(shape, kind="<f4"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def refused(path, message):
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"x\.npz.*{message}"):
            read_npz(path, SPECS, "values (n, 2)")
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


def test_arrays_come_back(tmp_path):
    path = tmp_path / "x.npz"
    for values in (np.ones((3, 2)), np.zeros((0, 2), "float32"), np.asfortranarray(np.arange(6.0).reshape(3, 2))):
        for write in (np.savez, np.savez_compressed):
            write(path, values=values, names=np.array(["a", "ö"]), other=[1])
            found = read_npz(path, SPECS, "")
            assert sorted(found) == ["names", "values"]
            np.testing.assert_array_equal(found["values"], values)
            assert found["values"].dtype == values.dtype
    assert list(read_npz(path, SPECS, "", others=True)["other"]) == [1]


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (header((2**35, 2)), "is damaged: by its header the array values takes"),
        (header((2**80, 2)), "is damaged: by its header"),
        (header((-1, 2)), "values is not an array as NumPy writes them"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "values is not an array as NumPy writes them"),
        (b"\x93NUMPY\x09\x00", "values is not an array as NumPy writes them"),
        (b"", "values is not an array as NumPy writes them"),
        (header((1, 2), "|O"), "holds Python objects, which are never read: they may run code"),
        (header((1, 2), "<i4") + bytes(8), "must be .n, 2. floats. Received: shape .1, 2., dtype int32"),
        (header((1, 3)) + bytes(12), "must be .n, 2. floats"),
        (header((100_000_000, 2)) + bytes(800_000_000), "would unpack to 800000000 bytes from"),
    ],
)
def test_an_array_that_is_something_else(tmp_path, member, message):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("values.npy", member)
    del member
    refused(path, message)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x93NUMPY"])
def test_what_is_no_npz_file(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    refused(tmp_path / "x.npz", r"is no \.npz file, or not a whole one.*np\.savez")


def test_a_wrong_checksum(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, values=np.ones((300, 2)))
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    refused(path, "is damaged: Bad CRC-32")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": np.array([0.0, 1])}, r"the array labels must be \(n,\) whole numbers"),
        ({"labels": np.array(["a", "b"])}, r"the array labels must be \(n,\) whole numbers"),
        ({"labels": np.zeros((2, 2), int)}, r"the array labels must be \(n,\) whole numbers"),
        ({"labels": np.array([0, 7])}, "every image needs a label, counted from 0, with a name"),
        ({"images": np.zeros((2, 10, 10), np.uint8)}, r"the array images must be \(n, 105, 105\) uint8"),
        ({"class_names": np.array([b"a", b"b"])}, "the array class_names must be"),
    ],
)
def test_omniglot_of_another_kind(tmp_path, fields, message):
    good = {
        "images": np.zeros((2, 105, 105), np.uint8),
        "labels": np.array([0, 1]),
        "is_train": np.array([True, False]),
        "class_names": np.array(["a", "b"]),
    }
    np.savez(tmp_path / "x.npz", **{**good, **fields})
    with pytest.raises(DataError, match=rf"x\.npz: {message}"):
        load("omniglot", tmp_path / "x.npz", subset=True)


def test_omniglot_whose_header_claims_more_than_there_are_drawings(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", header((10_000_000, 105, 105), "|u1"))
        archive.writestr("class_names.npy", header((0,), "<U1"))
    with pytest.raises(DataError, match=r"x\.npz is damaged: by its header the array images takes 110250000000 bytes"):
        load("omniglot", tmp_path / "x.npz", subset=True)
