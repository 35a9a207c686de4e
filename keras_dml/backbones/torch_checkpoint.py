"""Reads PyTorch checkpoints without PyTorch and without executing what they contain.

A `.pth` file is a pickle, that is, a program. Here the pickle's instructions are interpreted one by one: names of
functions stay names, the four that describe tensors and dictionaries are understood, everything else is refused. No
function named by the file is ever looked up, let alone called.
"""

import dataclasses
import math
import os
import pathlib
import pickletools
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, Final

import ml_dtypes
import numpy as np

from keras_dml.utils.files import check_regular
from keras_dml.utils.keras_archive import most_unpacked

_STORAGES: dict[str, Any] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_SAFETENSORS: dict[str, Any] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_FUNCTIONS = frozenset(
    {
        ("collections", "OrderedDict"),
        ("torch", "Size"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
    }
)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
MOST_PICKLE: Final = 3 * 2**20
"""A state dict takes some 200 bytes for each tensor; an object of one byte in a pickle takes 60 in memory."""


@dataclasses.dataclass(frozen=True)
class _Name:
    """A function or class that the file names; never resolved."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: Any
    size: int
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, flat: np.ndarray) -> np.ndarray:
        """The tensor's values out of its storage; refuses one that reaches outside of it."""
        whole = (*self.shape, *self.strides, self.offset)
        if len(self.shape) != len(self.strides) or any(n < 0 for n in whole):
            raise ValueError(f"a tensor of shape {self.shape} and strides {self.strides} makes no sense")
        start = self.storage.offset + self.offset
        if 0 in self.shape:
            return np.zeros(self.shape, flat.dtype)
        # With steps of 0 one value would make a tensor of any size.
        if math.prod(self.shape) > flat.size:
            raise ValueError(f"a tensor of shape {self.shape} has more values than its storage of {flat.size}")
        last = start + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if last >= flat.size:
            raise ValueError(f"a tensor of shape {self.shape} reaches beyond its storage of {flat.size} values")
        steps = tuple(step * flat.itemsize for step in self.strides)
        return np.lib.stride_tricks.as_strided(flat[start:], self.shape, steps, writeable=False).copy()


_MARK = object()


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The named tensors of a PyTorch (`.pth`, `.pt`) or safetensors checkpoint.

    Args:
        path: What `torch.save(model.state_dict(), path)` wrote, in the zip format or the one before (PyTorch < 1.6), or
            a `.safetensors` file. A state dict inside a training checkpoint (`{"state_dict": ...}`) is found too.

    Returns:
        Arrays by name, in the file's order and dtypes.

    Raises:
        ValueError: If the file is damaged, or contains anything but tensors, numbers, strings and collections of these.
    """
    path = pathlib.Path(path)
    try:
        check_regular(path)
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        content = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        tensors = _state_dict(content)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except _Refused as error:
        raise ValueError(
            f"Refused to read the checkpoint {path}: it contains {error}, which is neither a tensor nor a plain value. "
            "Nothing was executed. If you trust the file, load it with PyTorch and save `model.state_dict()` alone"
        ) from None
    except Exception as error:
        raise ValueError(f"{path} is not a readable PyTorch checkpoint: {_shortened(error)}") from error
    except MemoryError as error:
        raise ValueError(f"{path} is not a readable PyTorch checkpoint: it needs more memory than there is") from error
    if not tensors:
        raise ValueError(f"{path} contains no named tensors. Save `model.state_dict()` rather than the optimizer's.")
    return tensors


class _Refused(ValueError):
    """The file asks for something that is not a tensor."""


def _refuse(what: str) -> _Refused:
    return _Refused(_shortened(what))


def _read_zip(path: pathlib.Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        programs = [name for name in sizes if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise ValueError("the zip archive has no single data.pkl")
        folder = programs[0].removesuffix("data.pkl")
        if sizes.get(folder + "byteorder", 0) > 16:
            raise ValueError("its byteorder is no word")
        order = archive.read(folder + "byteorder").decode() if folder + "byteorder" in sizes else "little"
        if order != "little":
            raise ValueError(f"it was written on a {order}-endian machine")
        with archive.open(programs[0]) as program:
            content = _interpret(_Bounded(program))
        # Checked before reading: a small archive must not unpack into a large one.
        needed = {storage.key: storage.size * storage.dtype.itemsize for storage in _storages(content)}
        if sum(needed.values()) > most_unpacked(path.stat().st_size):
            raise ValueError(f"its tensors would unpack to {sum(needed.values())} bytes from {path.stat().st_size}")
        _check_size(content, sum(needed.values()))
        flat: dict[str, np.ndarray] = {}
        for storage in _storages(content):
            name = f"{folder}data/{storage.key}"
            if storage.key not in flat:
                if sizes.get(name) != storage.size * storage.dtype.itemsize:
                    raise ValueError(f"{name} should have {storage.size} values of type {storage.dtype}")
                flat[storage.key] = np.frombuffer(archive.read(name), storage.dtype)
    return _fill(content, flat)


def _read_legacy(path: pathlib.Path) -> Any:
    with path.open("rb") as file:
        if file.read(1) != b"\x80":
            raise ValueError("it begins with neither a zip archive nor a pickle")
        file.seek(0)
        if _interpret(_Bounded(file)) != _LEGACY_MAGIC or _interpret(_Bounded(file)) != _LEGACY_PROTOCOL:
            raise ValueError("it is a pickle, but not one that torch.save wrote")
        system = _expect(_interpret(_Bounded(file)), dict)
        if not system.get("little_endian", True):
            raise ValueError("it was written on a big-endian machine")
        content = _interpret(_Bounded(file))
        keys = _expect(_interpret(_Bounded(file)), list)
        _check_size(content, path.stat().st_size)
        dtypes = {storage.key: storage.dtype for storage in _storages(content)}
        left = path.stat().st_size
        flat = {}
        for key in keys:
            (size,) = struct.unpack("<q", file.read(8))
            length = size * dtypes[key].itemsize
            if not 0 <= length <= left:
                raise ValueError(f"storage {key} has an impossible size of {size}")
            flat[key] = np.frombuffer(file.read(length), dtypes[key])
            if flat[key].size != size:
                raise ValueError("the file ends too early")
    return _fill(content, flat)


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    # Which bytes are whose is the library's to check: nothing overlaps, nothing is left out.
    import safetensors

    tensors = {}
    for name, entry in safetensors.deserialize(path.read_bytes()):
        if entry["dtype"] not in _SAFETENSORS:
            raise ValueError(f"the values of {_shortened(name)} have the type {entry['dtype']}, which is not read")
        tensors[name] = np.frombuffer(entry["data"], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
    return tensors


class _Bounded:
    """A stream of which no more than a state dict's pickle needs is read.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = MOST_PICKLE

    def read(self, size: int) -> bytes:
        return self._counted(self._stream.read(min(size, self._left + 1)))

    def readline(self) -> bytes:
        return self._counted(self._stream.readline(self._left + 1))

    def _counted(self, content: bytes) -> bytes:
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"its pickle is longer than {MOST_PICKLE} bytes, while a state dict takes some thousands")
        return content


def _shortened(text: object) -> str:
    """A part of the file, or an error that may hold one, for an error text."""
    shown = "".join(character if character.isprintable() else "?" for character in str(text)[:200])
    return shown if len(str(text)) <= 200 else f"{shown} ..."


def _check_size(content: Any, available: int) -> None:
    """Raises if the tensors would take far more memory than their storages: a shared one may be copied for each."""
    total = sum(math.prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in _tensors(content))
    if total > most_unpacked(available):
        raise ValueError(f"its tensors take {total} bytes, and their storages {available}")


def _interpret(stream: _Bounded) -> Any:
    """Runs one pickle of the stream on a stack of plain values."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def to_mark() -> list[Any]:
        values: list[Any] = []
        while (value := stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    opcode: Any
    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                stack.append(_MARK)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument)
            case "TUPLE":
                stack.append(tuple(to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "APPEND":
                value = stack.pop()
                _expect(stack[-1], list).append(value)
            case "APPENDS":
                values = to_mark()
                _expect(stack[-1], list).extend(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _expect(stack[-1], dict).update(_dictionary([(key, value)]))
            case "SETITEMS":
                values = to_mark()
                _expect(stack[-1], dict).update(_dictionary(zip(values[::2], values[1::2], strict=True)))
            case "GLOBAL":
                stack.append(_named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_named(module, name))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_apply(function, arguments))
            case "BUILD":
                # An OrderedDict's attributes (`_metadata` of a state dict): not needed.
                stack.pop()
                _expect(stack[-1], dict)
            case other:
                raise _refuse(f"the pickle instruction {other}")
    raise ValueError("the pickle has no end")


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"its pickle treats a {type(value).__name__} as a {kind.__name__}")
    return value


def _dictionary(pairs: Iterable[Any]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key, value in pairs:
        # A small file can hold a tuple of tuples that takes years to hash; it must not be printed, either.
        if not isinstance(key, str | int | float | None):
            raise ValueError(f"its pickle names something with a {type(key).__name__}")
        result[key] = value
    return result


def _named(module: Any, name: Any) -> _Name:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise ValueError("its pickle names a function with something other than text")
    if (module, name) in _FUNCTIONS or (module in ("torch", "torch.cuda") and name in _STORAGES):
        return _Name(module, name)
    raise _refuse(f"the name {module}.{name}")


def _storage(identifier: Any) -> _Storage:
    kind, storage_type, key, _, size, *view = identifier
    known = kind == "storage" and isinstance(storage_type, _Name) and storage_type.name in _STORAGES
    if not known or not isinstance(key, str | int):
        raise ValueError("it refers to something other than a storage")
    # In old files a storage can be a window of another one: (its key, offset, size).
    offset = view[0][1] if view and view[0] is not None else 0
    return _Storage(str(key), _STORAGES[storage_type.name], int(size), int(offset))


def _apply(function: Any, arguments: Any) -> Any:
    if not isinstance(function, _Name) or (function.module, function.name) not in _FUNCTIONS:
        named = f"{function.module}.{function.name}" if isinstance(function, _Name) else f"a {type(function).__name__}"
        raise _refuse(f"a call of {named}")
    match function.name, arguments:
        case "OrderedDict", ():
            return {}
        case "OrderedDict", (items,):
            return _dictionary(items)
        case "Size", (sizes,):
            return tuple(sizes)
        case "_rebuild_parameter", (_Tensor() as tensor, *_):
            return tensor
        case "_rebuild_tensor" | "_rebuild_tensor_v2", (_Storage() as storage, int(offset), shape, strides, *_):
            shape, strides = tuple(shape), tuple(strides)
            if all(isinstance(number, int) for number in (*shape, *strides)):
                return _Tensor(storage, offset, shape, strides)
    raise ValueError(f"it calls {function.name} in a way that is not known")


def _tensors(content: Any, depth: int = 0, seen: set[int] | None = None) -> Iterator[_Tensor]:
    """The tensors in collections, each once: shared collections in shared collections are exponentially many."""
    if depth > 50:
        raise ValueError("its collections are nested too deeply")
    seen = set() if seen is None else seen
    if id(content) in seen:
        return
    if isinstance(content, _Tensor):
        seen.add(id(content))
        yield content
    elif isinstance(content, dict | list | tuple):
        seen.add(id(content))
        for value in content.values() if isinstance(content, dict) else content:
            yield from _tensors(value, depth + 1, seen)


def _storages(content: Any) -> Iterator[_Storage]:
    for tensor in _tensors(content):
        yield tensor.storage


def _fill(content: Any, flat: Mapping[str, np.ndarray], filled: dict[int, Any] | None = None) -> Any:
    """`content` with arrays in place of tensors; what is shared in it stays shared."""
    filled = {} if filled is None else filled
    if isinstance(content, _Tensor | dict) and id(content) not in filled:
        filled[id(content)] = (
            content.array(flat[content.storage.key])
            if isinstance(content, _Tensor)
            else {key: _fill(value, flat, filled) for key, value in content.items()}
        )
    return filled.get(id(content), content)


def _state_dict(content: Any) -> dict[str, np.ndarray]:
    """The dictionary with the most named tensors, at most two levels down (`{"state_dict": ...}` and the like)."""
    if not isinstance(content, dict):
        raise ValueError(f"it contains a {type(content).__name__} instead of named tensors")

    def named(level: dict[Any, Any]) -> dict[str, np.ndarray]:
        return {key: value for key, value in level.items() if isinstance(key, str) and isinstance(value, np.ndarray)}

    def inner(levels: Iterable[dict[Any, Any]]) -> list[dict[Any, Any]]:
        """The dictionaries in dictionaries, each once."""
        values = (value for level in levels for value in level.values() if isinstance(value, dict))
        return list({id(value): value for value in values}.values())

    first = inner([content])
    return max((named(level) for level in (content, *first, *inner(first))), key=len)
