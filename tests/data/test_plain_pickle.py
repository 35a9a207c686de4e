"""Pickles of plain data are read, and no other runs."""

import collections
import contextlib
import pathlib
import pickle

import numpy as np
import pytest

from keras_dml.data import DataError
from keras_dml.data.plain_pickle import read_plain_pickle

DATA = {
    "names": ["all_souls_000013", "Notre-Dame é"],
    "box": (1.5, -2, True, None, b"\x00\xff"),
    "rows": np.arange(6, dtype="int64").reshape(2, 3),
    "turned": np.asfortranarray(np.arange(6, dtype="float32").reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">u2"),
    "none": np.zeros((0,), "int32"),
    "words": np.array(["ab", "c"]),
    "flags": np.array([True, False]),
    "inner": [{"easy": np.array([4]), "number": np.float32(0.5), "count": np.int64(-7)}],
}


def written(path, content):
    path.write_bytes(content)
    return path


def same(a, b):
    if isinstance(b, np.ndarray):
        return a.dtype == b.dtype.newbyteorder("=") and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data(tmp_path, protocol):
    found = read_plain_pickle(written(tmp_path / "a.pkl", pickle.dumps(DATA, protocol)))
    assert same(found, DATA)
    found["rows"][0, 0] = 9  # the array is one's own


def test_python_2(tmp_path):
    """As Python 2 with NumPy 1 wrote `{"easy": array([1, 515])}`: text of bytes, and `numpy.core`."""
    text = (
        b"(dp0\nS'easy'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\nRp7\n"
        b"(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'i2'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\n"
        b"S'\\x01\\x00\\x03\\x02'\np15\ntp16\nbs."
    )
    np.testing.assert_array_equal(read_plain_pickle(written(tmp_path / "a.pkl", text))["easy"], [1, 515])


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (np.array([1, "a"], object), "type 'O8'"),
        (np.zeros(2, "i4,f4"), "type 'V8'"),
        (np.array([1], "datetime64[s]"), "type 'M8'"),
        ({1, 2}, "builtins.set|__builtin__.set|holds a set"),
        (len, "builtins.len|__builtin__.len"),
        (np.ndarray, "holds a function"),
        (np.random.default_rng(0), "numpy.random"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_anything_else_is_refused(tmp_path, protocol, value, named):
    with pytest.raises(DataError, match=rf"a\.pkl is not a pickle of plain data: .*({named}).*publisher again"):
        read_plain_pickle(written(tmp_path / "a.pkl", pickle.dumps([value], protocol)))


def test_nothing_runs(tmp_path):
    content = pickle.dumps(Touch(tmp_path / "touched"))
    with pytest.raises(DataError, match="it names"):
        read_plain_pickle(written(tmp_path / "a.pkl", content))
    assert not (tmp_path / "touched").exists()
    pickle.loads(content)
    assert (tmp_path / "touched").exists()


REBUILD = b"cnumpy.core.multiarray\n_reconstruct\n(tR"
NUMBERS = b"cnumpy\ndtype\n(S'i8'\ntR"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"no pickle at all",
        pickle.dumps(DATA)[:-20],
        REBUILD + b".",  # no values
        REBUILD + b"(I1\n(I9\nt" + NUMBERS + b"I00\nS'12345678'\ntb.",  # fewer bytes than the shape asks for
        REBUILD + b"(I1\n(I-1\nt" + NUMBERS + b"I00\nS'12345678'\ntb.",
        REBUILD + b"(I1\n(I1\ntS'i8'\nI00\nS'12345678'\ntb.",  # the type is text
        REBUILD + b"(I1\ntb.",
        b"cnumpy\ndtype\n(S'i8'\ntR(I3\nS'?'\ntb.",
        b"c_codecs\nencode\n(Vab\nVzlib\ntR.",
        b"(lp0\ng0\na.",  # a list in itself
        b"cbuiltins\nbytes\n(I9999999999999\ntR.",
        b"Pid\n.",  # something outside of the file
    ],
)
def test_damaged_files(tmp_path, content):
    with pytest.raises(DataError, match="not a pickle of plain data"):
        read_plain_pickle(written(tmp_path / "a.pkl", content))


def test_a_pickle_cannot_change_the_reader(tmp_path):
    """It may set attributes of what it names; that is gone with it."""
    change = b"c_codecs\nencode\n(N(dS'__defaults__'\n(Vlatin1\nttstb0"
    content = change + pickle.dumps(b"\xff", 2)
    with contextlib.suppress(DataError):
        read_plain_pickle(written(tmp_path / "a.pkl", content))
    assert read_plain_pickle(written(tmp_path / "b.pkl", pickle.dumps(b"\xff", 2))) == b"\xff"
    with pytest.raises(DataError):
        read_plain_pickle(written(tmp_path / "c.pkl", b"c_codecs\nencode\n(Vab\ntR."))
