"""The reader of PyTorch files: values of files that torch wrote, and refusal of everything else."""

import io
import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import parity_checks
import pytest

from keras_dml.backbones import torch_checkpoint
from keras_dml.backbones.torch_checkpoint import read_state_dict

DATA = pathlib.Path(__file__).parent / "data"


@pytest.mark.parametrize("kind", ["zip", "legacy", "nested"])
def test_values_and_types_of_files_that_torch_wrote(kind):
    state = read_state_dict(DATA / f"tiny_{kind}.pth")
    base = np.arange(24, dtype="float32")
    expected = {
        "matrix": base.reshape(2, 3, 4),
        "transposed": base.reshape(4, 6).T,
        "window": base[5:9],
        "half": np.array([0.5, -2], "float16"),
        "double": np.array([[1e-3]]),
        "count": np.array(7),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3), "float32"),
        "parameter": np.full(2, 4, "float32"),
    }
    brain = state.pop("brain")
    np.testing.assert_array_equal(brain.astype("float32"), [1.5, -3])
    assert set(state) == set(expected)
    for name, value in expected.items():
        assert state[name].dtype == value.dtype, name
        np.testing.assert_array_equal(state[name], value, err_msg=name)


class _Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def _zip(path, program, **entries):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for name, content in entries.items():
            archive.writestr(f"archive/data/{name}", content)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path, legacy, protocol):
    trace = tmp_path / "executed"
    program = pickle.dumps({"weight": _Evil(trace)}, protocol)
    pickle.loads(program)
    assert trace.exists(), "the pickle would do harm"
    trace.rmdir()
    path = tmp_path / "evil.pth"
    if legacy:
        parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts) + program)
    else:
        _zip(path, program)
    with pytest.raises(ValueError, match=r"Refused.*mkdir.*Nothing was executed"):
        read_state_dict(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02cbuiltins\neval\n.",
        b"\x80\x02ctorch\nload\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.",
        # A torch name that is allowed as a type, called like a function.
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        b"\x80\x02(ccollections\nOrderedDict\no.",
        b"\x80\x02(icollections\nOrderedDict\n.",
        # A call of a tuple.
        b"\x80\x02)\x85)R.",
    ],
)
def test_names_and_instructions_outside_of_the_few_known_are_refused(tmp_path, program):
    path = tmp_path / "file.pth"
    _zip(path, program)
    with pytest.raises(ValueError, match="Refused"):
        read_state_dict(path)


def _tensor_program(shape, strides, offset, size):
    """The pickle of {"weight": tensor}, as torch writes it, with any numbers in it."""
    stream = io.BytesIO()
    stream.write(b"\x80\x02}X\x06\x00\x00\x00weightctorch._utils\n_rebuild_tensor_v2\n(")
    stream.write(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu")
    stream.write(b"J" + struct.pack("<i", size) + b"tQ")
    for number in (offset,):
        stream.write(b"J" + struct.pack("<i", number))
    for numbers in (shape, strides):
        stream.write(b"(" + b"".join(b"J" + struct.pack("<i", number) for number in numbers) + b"t")
    stream.write(b"\x89NtRs.")
    return stream.getvalue()


def test_the_tensor_program_of_these_tests_reads(tmp_path):
    path = tmp_path / "file.pth"
    _zip(path, _tensor_program((2, 2), (2, 1), 0, 4), **{"0": np.arange(4, dtype="<f4").tobytes()})
    np.testing.assert_array_equal(read_state_dict(path)["weight"], [[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "size"),
    [
        ((2, 3), (3, 1), 0, 4),
        ((2, 2), (2, 1), 1, 4),
        ((2, 2), (-2, 1), 2, 4),
        ((2, 2), (2, 1), -1, 4),
        ((4,), (1, 1), 0, 4),
        ((4,), (1,), 0, 5),
        ((4,), (1000000,), 0, 4),
        # One value a million times.
        ((1000, 1000), (0, 0), 0, 4),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(tmp_path, shape, strides, offset, size):
    path = tmp_path / "file.pth"
    _zip(path, _tensor_program(shape, strides, offset, size), **{"0": bytes(16)})
    with pytest.raises(ValueError, match="not a readable PyTorch checkpoint"):
        read_state_dict(path)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_damaged_files_raise_value_errors(tmp_path, kind):
    content = (DATA / f"tiny_{kind}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"not a readable|Refused|no named tensors"):
            read_state_dict(path)


def test_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    tensors = {"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.array(2, "float32")}
    parity_checks.write_safetensors(path, tensors)
    found = read_state_dict(path)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value)
    content = path.read_bytes()
    for damaged in (content[:-1], content[:20], b"\xff" * 8 + content[8:], content.replace(b"[0, 24]", b"[1, 24]")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a readable"):
            read_state_dict(path)


def test_shared_tensors_and_collections_are_read_once(tmp_path):
    path = tmp_path / "file.pth"
    start, end = b"\x80\x02}", b"."
    tensor = _tensor_program((2, 2), (2, 1), 0, 4)[len(start) : -len(b"s.")]
    # {"weight": tensor, "again": the same}
    _zip(path, start + tensor + b"q\x00sX\x05\x00\x00\x00againh\x00s" + end, **{"0": bytes(16)})
    state = read_state_dict(path)
    assert state["again"] is state["weight"]
    content = torch_checkpoint._Tensor(torch_checkpoint._Storage("0", np.dtype("f4"), 1), 0, (), ())
    for _ in range(12):
        content = [content, {"a": content, "b": (content, content)}]
    assert len(list(torch_checkpoint._tensors(content))) == 1


@pytest.mark.parametrize("entry", [b"))s", b"()Nu", b"ccollections\nOrderedDict\n]))\x86a\x85R"])
def test_names_that_may_take_forever_to_hash_are_refused(tmp_path, entry):
    _zip(tmp_path / "file.pth", b"\x80\x02}" + entry + b".")
    with pytest.raises(ValueError, match="names something with a tuple"):
        read_state_dict(tmp_path / "file.pth")


def test_a_file_without_tensors(tmp_path):
    path = tmp_path / "file.pth"
    _zip(path, pickle.dumps({"epoch": 1}, 2))
    with pytest.raises(ValueError, match="no named tensors"):
        read_state_dict(path)
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "none.pth")
