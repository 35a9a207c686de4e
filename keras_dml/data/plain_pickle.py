"""Pickles of plain data, read without running what they say.

A pickle is a program: Python's `pickle.load` calls whatever functions the file names. Here it can name nothing but what
arrays and numbers of NumPy are made of, and even those are not NumPy's own functions, some of which trust the file to
describe memory rightly, but the few lines below.
"""

import dataclasses
import io
import math
import pathlib
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from keras_dml.data.errors import DataError
from keras_dml.utils.files import check_regular

MOST: Final = 32 * 2**20
"""Bytes of a pickle; the largest that is published has one million."""
AGAIN: Final = "Get the file from its publisher again"
PLAIN_TYPES: Final = re.compile(r"[<>=|]?([iu][1248]|f[248]|b1|U\d{1,4})")


class _DType:
    """In the place of `numpy.dtype`: numbers and text only."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or PLAIN_TYPES.fullmatch(code) is None:
            raise pickle.UnpicklingError(f"an array of type {code!r}, which is neither numbers nor text")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"a type of numbers with the state {state!r}")
        self.dtype = self.dtype.newbyteorder(order)


@dataclasses.dataclass(eq=False)
class _Array:
    """In the place of `numpy.ndarray`, until `_plain` puts the array there."""

    values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        try:
            _, shape, dtype, fortran, data = state
        except (TypeError, ValueError) as error:
            raise pickle.UnpicklingError("an array without shape, type and values") from error
        self.values = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    # Strings are the bytes of Python 2, see `encoding` below.
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _DType) or order not in ("C", "F"):
        raise pickle.UnpicklingError("an array that is not made of bytes and a type")
    if not isinstance(shape, tuple) or any(type(size) is not int or size < 0 for size in shape):
        raise pickle.UnpicklingError(f"an array of shape {shape!r}")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise pickle.UnpicklingError(f"an array of shape {shape} and type {dtype.dtype} in {len(data)} bytes")
    # A copy in the machine's byte order, which the file cannot change any more.
    values = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)
    return values.astype(dtype.dtype.newbyteorder("="))


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(_array(data, dtype, shape, order))


def _scalar(dtype: Any, data: Any) -> int | float | bool | str:
    return _array(data, dtype, ()).item()


def _encode(text: Any, encoding: Any) -> bytes:
    """In the place of `_codecs.encode`, with which old protocols write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _no_bytes(*arguments: Any) -> bytes:
    """In the place of `bytes`, which old protocols name for none of them."""
    if arguments:
        raise pickle.UnpicklingError(f"bytes made of {arguments!r}")
    return b""


_KNOWN: Final[dict[tuple[str, str], Callable[..., Any]]] = {
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    ("numpy", "dtype"): _DType,
    # An argument of `_reconstruct`, which does not look at it.
    ("numpy", "ndarray"): _reconstruct,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, while lists, tuples, dictionaries, strings, numbers and NumPy's "
                "arrays of numbers or text alone are read"
            )
        known = _KNOWN[module, name]
        # A new function each time: a pickle may set attributes of what it is given.
        return lambda *arguments: known(*arguments)


def read_plain_pickle(path: pathlib.Path) -> Any:
    """What a pickle file holds, if that is plain data: containers, strings, numbers, and NumPy's, in arrays or not.

    Files of Python 2 are read as well.

    Raises:
        DataError: The file names anything else, or is no pickle.
    """
    check_regular(path)
    if path.stat().st_size > MOST:
        raise DataError(f"{path} is not a pickle of plain data: it has more than {MOST} bytes. {AGAIN}")
    content = path.read_bytes()
    try:
        _check_memo(content)
        return _plain(_PlainUnpickler(io.BytesIO(content), encoding="latin1").load())
    # A file that is no pickle, or a wrong one, makes Python's unpickler raise anything.
    except Exception as error:
        raise DataError(
            f"{path} is not a pickle of plain data: {str(error)[:300]}. For safety nothing else is read. {AGAIN}"
        ) from error


def _check_memo(content: bytes) -> None:
    """Raises if a place in the memo is far beyond the file's length: Python would make room for all places before."""
    for opcode, argument, _ in pickletools.genops(content):
        if "PUT" in opcode.name and int(argument) > len(content):  # type: ignore[arg-type]
            raise pickle.UnpicklingError(f"a note of number {argument} in {len(content)} bytes")


def _plain(value: Any, done: dict[int, Any] | None = None) -> Any:
    """The value with every array in its place; what is shared in it stays shared.

    Raises:
        pickle.UnpicklingError: There is something in it that is not data.
    """
    done = {} if done is None else done
    if id(value) not in done:
        done[id(value)] = _replaced(value, done)
    return done[id(value)]


def _replaced(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, _Array):
        if value.values is None:
            raise pickle.UnpicklingError("an array without values")
        return value.values
    if isinstance(value, dict):
        return {_plain(key, done): _plain(item, done) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, done) for item in value)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | bytearray):
        return value
    raise pickle.UnpicklingError(f"it holds a {type(value).__name__}, which is no data")
