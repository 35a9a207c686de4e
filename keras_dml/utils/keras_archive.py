"""Looks into a `.keras` archive and into HDF5 files of weights before Keras reads them.

Both may be small and unpack into any amount of memory. Keras writes neither compressed.
"""

import io
import json
import math
import pathlib
import zipfile
import zlib
from typing import Any, Final

import numpy as np

MOST_CONFIG: Final = 32 * 2**20
SMALL: Final = 16 * 2**20
MOST_RATIO: Final = 4
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"


def most_unpacked(size: int) -> int:
    """Bytes that the weights in a file of `size` bytes may take: weights hardly shrink when they are compressed."""
    return max(SMALL, MOST_RATIO * size)


def check_keras_archive(path: pathlib.Path) -> None:
    """Compares an archive's checksums and sizes, reading no more than they allow.

    Raises:
        ValueError: It is damaged, no `.keras` file, or unpacks to far more than it is; the text names it.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            missing = [name for name in (_CONFIG, _WEIGHTS) if name not in members]
            if missing:
                raise ValueError(f"{path} is no model that Keras saved as .keras: it lacks {', '.join(missing)}")
            total = sum(info.file_size for info in archive.infolist())
            if members[_CONFIG].file_size > MOST_CONFIG or total > most_unpacked(size):
                raise ValueError(
                    f"{path} unpacks to {total} bytes from {size}, far more than models that Keras saves; it is not "
                    "read. Save the model again"
                )
            for info in archive.infolist():
                # Reading to the end compares the checksum.
                with archive.open(info) as member:
                    if info.filename == _WEIGHTS:
                        check_weights(path, io.BytesIO(member.read()), info.file_size)
                        continue
                    while member.read(2**20):
                        pass
    # What `zipfile` raises of damaged archives, and of encrypted or oddly compressed ones.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, UnicodeDecodeError) as error:
        if zipfile.is_zipfile(path):
            raise ValueError(f"{path} is damaged: {error}. Copy it again, or save the model again") from error
        raise ValueError(f"{path} is no model that Keras saved as .keras, or not a whole one: {error}") from error


def check_declared_size(path: pathlib.Path) -> None:
    """Compares the weights that the layers of a `.keras` file will make with the size of the file.

    A layer of any width takes a few bytes of configuration. The model is built without its weights; what fails in that
    is left to Keras, which says why.

    Args:
        path: The file, which `check_keras_archive` has found whole.

    Raises:
        ValueError: They would take far more memory than the file's; the text names it.
    """
    import keras
    from keras.src.backend.common import global_state

    with zipfile.ZipFile(path) as archive:
        content = archive.read(_CONFIG)
    # Keras would make, at some later time, what is left here.
    waiting = list(global_state.get_global_attribute("uninitialized_variables") or [])
    total = 0
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = keras.saving.deserialize_keras_object(json.loads(content), safe_mode=True)
            for weight in model.variables:
                total += math.prod(weight.shape) * np.dtype("float32").itemsize
    except Exception:
        return
    finally:
        global_state.set_global_attribute("uninitialized_variables", waiting)
    size = path.stat().st_size
    if total > most_unpacked(size):
        raise ValueError(
            f"{path}: its layers would take {total} bytes, and the file has {size}, so it does not hold their weights; "
            "they are not made. Save the model again"
        )


def check_weights(path: pathlib.Path, file: Any, size: int) -> None:
    """Compares the sizes of the arrays in an HDF5 file with the file's.

    Args:
        path: What to call it.
        file: The file, or its path.
        size: Its bytes.

    Raises:
        ValueError: It is no HDF5 file, refers to other files, or unpacks to far more than it is.
    """
    import h5py

    total = 0
    try:
        with h5py.File(file, "r") as store:
            names: list[str] = []
            store.visit_links(names.append)
            for name in names:
                if not isinstance(store.get(name, getlink=True), h5py.HardLink):
                    raise ValueError("it refers to another file, or to itself")
                found = store[name]
                if isinstance(found, h5py.Dataset):
                    if found.external or found.is_virtual:
                        raise ValueError("it refers to another file")
                    total += found.nbytes if found.shape is not None else 0
    # HDF5 reports damage as any of these.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{path} holds no readable weights (HDF5): {error}. Copy it again, or save it again"
        ) from error
    if total > most_unpacked(size):
        raise ValueError(
            f"{path}: its weights would unpack to {total} bytes from {size}, far more than weights do; they are not "
            "read. Save the model again"
        )
