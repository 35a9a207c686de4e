"""Small files that would unpack into much memory, and models that need code: refused, named, and in little memory."""

import io
import pickle
import resource
import struct
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_dml.backbones.torch_checkpoint import read_state_dict
from keras_dml.image_encoder import load_keras_model

LITTLE = 256 * 2**20


@pytest.fixture
def little_memory():
    """Fails a test during which the process grows by more than 256 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < LITTLE


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
    path = tmp_path_factory.mktemp("model") / "encoder.keras"
    model.save(path)
    return path


def changed(saved, path, **members):
    """A copy of the archive with other contents of some members, compressed."""
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for name in source.namelist():
            key = name.replace(".", "_")
            target.writestr(name, members.get(key, source.read(name)))
    return path


def test_a_whole_model_loads(saved, tmp_path):
    assert load_keras_model(changed(saved, tmp_path / "encoder.keras")).output_shape == (None, 4)


def test_keras_archives_that_unpack_to_gigabytes(saved, tmp_path, little_memory):
    path = tmp_path / "encoder.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("config.json", "{}")
        with archive.open("model.weights.h5", "w", force_zip64=True) as member:
            for _ in range(512):
                member.write(bytes(2**20))
    with pytest.raises(ValueError, match=r"encoder\.keras unpacks to .* far more than models that Keras saves"):
        load_keras_model(path)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as store:
        store.create_dataset(
            "layers/dense/vars/0", (2**16, 2**14), "float32", chunks=(2**10, 2**10), compression="gzip"
        )
    changed(saved, path, model_weights_h5=buffer.getvalue())
    with pytest.raises(ValueError, match=r"encoder\.keras: its weights would unpack to 4294967296 bytes from"):
        load_keras_model(path)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as store:
        store["layers"] = h5py.ExternalLink("/etc/hostname", "/")
    changed(saved, path, model_weights_h5=buffer.getvalue())
    with pytest.raises(ValueError, match=r"encoder\.keras holds no readable weights.*refers to another file"):
        load_keras_model(path)


def test_keras_archives_whose_layers_would_take_gigabytes(saved, tmp_path, little_memory):
    with zipfile.ZipFile(saved) as archive:
        config = archive.read("config.json").decode()
    path = changed(saved, tmp_path / "wide.keras", config_json=config.replace('"units": 4', '"units": 4000000'))
    with pytest.raises(ValueError, match=r"wide\.keras: its layers would take 30\d\d+ bytes, and the file has \d+"):
        load_keras_model(path)
    # Nothing is left that Keras would make later.
    assert keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).count_params() == 3


def test_a_keras_archive_with_a_wrong_checksum(saved, tmp_path):
    path = tmp_path / "encoder.keras"
    content = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        place = archive.getinfo("model.weights.h5").header_offset + 3000
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"encoder\.keras is damaged: Bad CRC-32 for file 'model\.weights\.h5'"):
        load_keras_model(path)
    path.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"encoder\.keras is no model that Keras saved"):
        load_keras_model(path)


def test_models_that_need_code(tmp_path):
    @keras.saving.register_keras_serializable("strangers")
    class Own(keras.layers.Layer):
        def call(self, x):
            return x

    path = tmp_path / "encoder.keras"
    keras.Sequential([keras.Input((4,)), Own()]).save(path)
    keras.saving.get_custom_objects().pop("strangers>Own")
    del Own
    with pytest.raises(ValueError, match=r"encoder\.keras cannot be loaded .*not registered with Keras here") as error:
        load_keras_model(path)
    assert len(str(error.value)) < 600
    keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x)]).save(path)
    with pytest.raises(ValueError, match=r"encoder\.keras .*it holds a Lambda layer, .* which is not run") as error:
        load_keras_model(path)
    assert "safe_mode" not in str(error.value)
    assert "unsafe" not in str(error.value)


def torch_zip(path, program, **entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", program)
        for name, content in entries.items():
            archive.writestr(f"archive/data/{name[1:]}", content)


def storage(size, key="0"):
    return (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX"
        + struct.pack("<I", len(key))
        + key.encode()
        + b"X\x03\x00\x00\x00cpuJ"
        + struct.pack("<i", size)
        + b"tQ"
    )


def tensor(size, key="0"):
    shape = b"J" + struct.pack("<i", size) + b"\x85"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(size, key) + b"K\x00" + shape + b"K\x01\x85\x89}tR"


def state(*tensors):
    pairs = b"".join(b"X\x01\x00\x00\x00" + bytes([33 + n]) + one for n, one in enumerate(tensors))
    return b"\x80\x02}(" + pairs + b"u."


def test_torch_checkpoints_that_unpack_to_gigabytes(tmp_path, little_memory):
    path = tmp_path / "weights.pth"
    torch_zip(path, state(tensor(2)), _0=bytes(8))
    assert read_state_dict(path)["!"].shape == (2,)
    size = 2**27
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", state(tensor(size)))
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(size * 4 // 2**20):
                member.write(bytes(2**20))
    with pytest.raises(ValueError, match=r"weights\.pth .*its tensors would unpack to 536870912 bytes"):
        read_state_dict(path)
    # A pickle of nothing but empty lists.
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("archive/data.pkl", "w") as member,
    ):
        member.write(b"\x80\x02(")
        for _ in range(200):
            member.write(b"]" * 1_000_000)
    with pytest.raises(ValueError, match=r"weights\.pth .*its pickle is longer than"):
        read_state_dict(path)
    # One storage for many tensors.
    torch_zip(path, state(*[tensor(2**20)] * 80), _0=bytes(2**22))
    with pytest.raises(ValueError, match=r"weights\.pth .*its tensors take 335544320 bytes, and their"):
        read_state_dict(path)


def test_the_content_of_a_checkpoint_is_not_in_the_message(tmp_path):
    path = tmp_path / "weights.pth"
    secret = "x" * 100_000
    path.write_bytes(pickle.dumps({secret: object()}, protocol=2))
    with pytest.raises(ValueError, match=r"weights\.pth|Refused") as error:
        read_state_dict(path)
    assert len(str(error.value)) < 800


def test_safetensors_of_every_kind(tmp_path, little_memory):
    from safetensors.numpy import save_file

    path = tmp_path / "weights.safetensors"
    save_file({"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.ones(2, "float16")}, path)
    found = read_state_dict(path)
    np.testing.assert_array_equal(found["a"], np.arange(6).reshape(2, 3))
    good = path.read_bytes()
    # Two tensors over the same bytes, a header beyond the file, a cut file.
    shared = (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    )
    wrong = [len(shared).to_bytes(8, "little") + shared + bytes(8), (2**60).to_bytes(8, "little") + good[8:], good[:-1]]
    for content in (*wrong, b"", b"12345678"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"weights\.safetensors is not a readable PyTorch checkpoint"):
            read_state_dict(path)


def test_a_pickle_of_plain_data_that_would_fill_the_memory(tmp_path, little_memory):
    from keras_dml.data import DataError
    from keras_dml.data.plain_pickle import read_plain_pickle

    path = tmp_path / "gnd.pkl"
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    with pytest.raises(DataError, match=r"gnd\.pkl .*a note of number 2147483647 in"):
        read_plain_pickle(path)
    # Lists of the same lists, forty deep: read once each, not 2 ** 40 times.
    value = [0]
    for _ in range(40):
        value = [value, value]
    path.write_bytes(pickle.dumps(value))
    read_plain_pickle(path)
