"""The files of data sets, read so that whatever is wrong with one is said by its name.

All loaders read through here. A file may come from anyone: it may be cut off, of another kind, or made to do harm. So
sizes are looked at before memory is asked for, nothing in a file is run, and no error but `ValueError` and `OSError`
comes out.
"""

import codecs
import dataclasses
import math
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Final

import numpy as np

from keras_dml.data.errors import DataError
from keras_dml.utils.files import check_regular

MOST_LINE: Final = 4096
MOST_MATLAB: Final = 128 * 2**20
"""Unpacked; the annotations of CARS196 take a tenth of it."""
MOST_RATIO: Final = 64
"""Bytes of an array for each byte in its file: embeddings hardly shrink, one-bit drawings by 40."""
SMALL: Final = 16 * 2**20
"""An array of this size is read whatever the ratio."""


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a list.

    Args:
        path: The file.
        number: The line's, from 1.
        text: Without blanks around it.
    """

    path: pathlib.Path
    number: int
    text: str

    def fault(self, expected: str, remedy: str = "Correct the line, or get the file again") -> DataError:
        """The error about this line."""
        shown = self.text if len(self.text) <= 80 else f"{self.text[:80]} ..."
        return DataError(f"{self.path}, line {self.number}: expected {expected}. Received: {shown!r}. {remedy}")

    def fields(self, names: Sequence[str]) -> list[str]:
        """The line's words, as many as `names`; the last takes the rest of the line.

        Raises:
            DataError: There are fewer.
        """
        words = self.text.split(None, len(names) - 1)
        if len(words) != len(names):
            raise self.fault(f"{len(names)} fields, {' '.join(names)}")
        return words

    def whole_number(self, text: str, name: str, lowest: int, highest: int) -> int:
        """`text`, a part of the line, as a number from `lowest` to `highest`.

        Raises:
            DataError: It is none.
        """
        # Python refuses thousands of digits with advice of its own.
        value = int(text) if len(text) < 20 and text.lstrip("+-").isdecimal() else None
        if value is None or not lowest <= value <= highest:
            raise self.fault(f"{name} to be a whole number from {lowest} to {highest}")
        return value

    def number_of(self, text: str, name: str) -> float:
        """`text`, a part of the line, as a finite number.

        Raises:
            DataError: It is none.
        """
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.fault(f"{name} to be a finite number")
        return value


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """What an array in a file must be.

    Args:
        kinds: Its dtype's kind, one of these letters: "f" floats, "iu" integers, "b" booleans, "U" text.
        shape: Its shape; None for a side of any length.
        what: The two in words, for errors.
        most: Values at most.
        optional: Whether it may be missing.
    """

    kinds: str
    shape: tuple[int | None, ...]
    what: str
    most: int | None = None
    optional: bool = False


def lines(path: pathlib.Path, most_name: int = 255) -> Iterator[Line]:
    """The lines of a UTF-8 text file that are not blank.

    Args:
        path: The file.
        most_name: Bytes between two slashes, the most that systems take as the name of a file.

    Raises:
        DataError: A line is not UTF-8, or no line of text at all.
        OSError: The file cannot be read.
    """
    check_regular(path)
    with open(path, "rb") as file:
        number = 0
        while raw := file.readline(MOST_LINE + 1):
            number += 1
            if len(raw) > MOST_LINE:
                raise DataError(
                    f"{path}, line {number}: longer than {MOST_LINE} bytes, so this is no list of images. Get the file "
                    "again"
                )
            try:
                text = raw.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode("utf-8").strip()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: not UTF-8 text ({error.reason} at byte {error.start} of the line). Save "
                    "the file as UTF-8, or get it again"
                ) from error
            if "\0" in text:
                raise DataError(f"{path}, line {number}: holds a zero byte, so this is no text. Get the file again")
            if max(map(len, raw.split(b"/"))) > most_name:
                raise Line(path, number, text).fault(f"names of at most {most_name} bytes")
            if text:
                yield Line(path, number, text)


def once(seen: dict[str, int], key: str, line: Line, what: str) -> None:
    """Notes that `line` is about `key`.

    Raises:
        DataError: A line before it is, too.
    """
    if seen.setdefault(key, line.number) != line.number:
        raise line.fault(f"every {what} once, but line {seen[key]} has {key} already")


def read_npz(path: pathlib.Path, specs: Mapping[str, ArraySpec], layout: str, others: bool = False) -> dict[str, Any]:
    """Arrays of an .npz file, by name; no Python object in it is looked at.

    Args:
        path: The file.
        specs: What each array must be.
        layout: What the file is expected to hold, for errors.
        others: Whether to read arrays that are not in `specs`, too.

    Raises:
        DataError: The file is no .npz, damaged, or an array is missing or something else.
        OSError: It cannot be read.
    """
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            missing = [name for name, spec in specs.items() if not spec.optional and name not in members]
            if missing:
                raise DataError(
                    f"{path} lacks the array{'s' if len(missing) > 1 else ''} {', '.join(missing)}; it holds: "
                    f"{', '.join(members) or 'nothing'}. Expected: {layout}"
                )
            return {
                name: _member(path, archive, members[name], name, specs.get(name), layout)
                for name in (members if others else specs)
                if name in members
            }
    # What `zipfile` raises of damaged archives, and of encrypted or oddly compressed ones.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, UnicodeDecodeError) as error:
        if zipfile.is_zipfile(path):
            raise DataError(f"{path} is damaged: {error}. Expected: {layout}") from error
        raise DataError(
            f"{path} is no .npz file, or not a whole one: {error}. Expected: {layout}. Write it with np.savez"
        ) from error


def texts(path: pathlib.Path, name: str, array: np.ndarray) -> list[str]:
    """The values of a text array.

    Raises:
        DataError: They are no text.
    """
    try:
        return [str(value) for value in array.tolist()]
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: the array {name} holds no valid text: {error}. Write the file again") from error


def _member(
    path: pathlib.Path,
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    name: str,
    spec: ArraySpec | None,
    layout: str,
) -> np.ndarray:
    with archive.open(info) as member:
        shape, fortran, dtype = _header(path, member, name)
        if dtype.hasobject:
            raise DataError(
                f"{path}: the array {name} holds Python objects, which are never read: they may run code. Save it as "
                f"numbers or text. Expected: {layout}"
            )
        fits = spec is None or (
            dtype.kind in spec.kinds
            and len(shape) == len(spec.shape)
            and all(side is None or side == own for side, own in zip(spec.shape, shape, strict=True))
        )
        if not fits:
            assert spec is not None
            raise DataError(
                f"{path}: the array {name} must be {spec.what}. Received: shape {shape}, dtype {dtype}. Expected: "
                f"{layout}"
            )
        count = math.prod(shape)
        size = count * dtype.itemsize
        if size != info.file_size - member.tell():
            raise DataError(
                f"{path} is damaged: by its header the array {name} takes {size} bytes, and "
                f"{info.file_size - member.tell()} are there. Write the file again"
            )
        if (spec is not None and spec.most is not None and count > spec.most) or size > max(
            SMALL, MOST_RATIO * info.compress_size
        ):
            raise DataError(
                f"{path}: the array {name} of shape {shape} would unpack to {size} bytes from {info.compress_size}, "
                "far more than such arrays do; it is not read. If it is right, write the file with np.savez, which "
                "does not compress"
            )
        values = np.empty(count, dtype)
        if size:
            view = memoryview(values.view(np.uint8))
            done = 0
            while done < size:
                got = member.readinto(view[done:])  # type: ignore[attr-defined]
                if not got:
                    raise EOFError(f"the array {name} ends after {done} of {size} bytes")
                done += got
        # At the end of a member its checksum is compared.
        member.read(1)
    return values.reshape(shape, order="F" if fortran else "C")


def _header(path: pathlib.Path, member: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(member)
        if version not in read:
            raise ValueError(f"format {version}")
        shape, fortran, dtype = read[version](member)
    # NumPy evaluates the header as a Python literal: a wrong one may raise anything.
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path}: {name} is not an array as NumPy writes them: {reason}. Write the file again"
        ) from error
    if any(side < 0 for side in shape):
        raise DataError(f"{path}: {name} is not an array as NumPy writes them: shape {shape}. Write the file again")
    return shape, fortran, dtype


def read_matlab(path: pathlib.Path, name: str, layout: str) -> np.ndarray:
    """A variable of a MATLAB file of version 5 to 7, with sides of length 1 left out, 1-D at least.

    Raises:
        DataError: The file is of another kind, damaged, or has no such variable.
        OSError: It cannot be read.
    """
    from scipy.io import loadmat, whosmat

    check_regular(path)
    with open(path, "rb") as file:
        start = file.read(128)
    if not start:
        raise DataError(f"{path} is empty. Expected: a MATLAB file with {name}:\n{layout}")
    if start.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise DataError(
            f"{path} is a MATLAB file of version 7.3, which is not read. Save it in MATLAB with -v7, or take the "
            f"original. Expected:\n{layout}"
        )
    if not start.startswith(b"MATLAB 5.0"):
        raise DataError(f"{path} is no MATLAB file of version 5 to 7. Get the original. Expected:\n{layout}")
    try:
        _check_unpacked(path)
        content = loadmat(path, squeeze_me=True, variable_names=[name])
        if name not in content:
            found = ", ".join(entry[0] for entry in whosmat(path)) or "nothing"
            raise DataError(f"{path} has no variable {name}; it holds: {found}. Expected:\n{layout}")
    except (DataError, FileNotFoundError, PermissionError):
        raise
    # SciPy's reader trusts the file and raises anything where it is wrong.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is damaged: {reason}. Get the file again. Expected:\n{layout}") from error
    return np.atleast_1d(content[name])


def _check_unpacked(path: pathlib.Path) -> None:
    """Unpacks a MATLAB file's variables bit by bit, keeping nothing, and raises if they are too large or cut off."""
    total = 0
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(126)
        order = "little" if file.read(2) == b"IM" else "big"
        while len(tag := file.read(8)) == 8:
            kind, length = (int.from_bytes(tag[place : place + 4], order) for place in (0, 4))  # type: ignore[arg-type]
            if kind not in (14, 15):
                raise ValueError(f"a variable of the unknown kind {kind} at byte {file.tell() - 8}")
            if file.tell() + length > size:
                raise ValueError(f"it is cut off at byte {size}")
            end = file.tell() + length
            unpacker = zlib.decompressobj()
            while kind == 15 and file.tell() < end and not unpacker.eof:
                rest = file.read(min(2**16, end - file.tell()))
                while rest and not unpacker.eof:
                    total += len(unpacker.decompress(rest, 2**20))
                    rest = unpacker.unconsumed_tail
                    if total > MOST_MATLAB:
                        raise ValueError(f"it unpacks to more than {MOST_MATLAB} bytes")
            if kind == 15 and not unpacker.eof:
                raise ValueError("a compressed variable is cut off")
            total += length if kind == 14 else 0
            if total > MOST_MATLAB:
                raise ValueError(f"it unpacks to more than {MOST_MATLAB} bytes")
            file.seek(end)
