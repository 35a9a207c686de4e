"""Seeded faults: what disks, programs and people do to files, and how a loader must answer.

The short selection runs with the other tests; `make faults` (KERAS_DML_FAULTS=all) runs all.
"""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import warnings
import zipfile

ALL = os.environ.get("KERAS_DML_FAULTS") == "all"
TIMES = int(os.environ.get("KERAS_DML_FAULTS_TIMES", "1"))
"""For a longer hunt: so many times the seeds."""
SECONDS = 20
"""Within which every faulty input is answered."""
MEMORY = 256 * 2**20
"""Bytes by which the process may grow over one refused input."""
TOKENS = (
    *("", "nan", "inf", "-1", "0", "1.5", "9" * 30, "9" * 6000, "1e400", "None", "ö", "\0", "\udcff", "a b c"),
    *("../../etc/passwd", "/etc/passwd", "-", "[]", "{}", '"', "\\", "%s", "true"),
)
VALUES = (None, True, -1, 0, 2**70, 1e308, float("nan"), "", "text", [], {}, [None], {"a": []}, [[[[]]]])


def some(seeds, short):
    """The seeds to run: all of them, or the first few."""
    return range(seeds * TIMES) if ALL else range(short)


def change(folder, chosen, seed):
    """Damages one of the `chosen` files of a folder; returns what was done, in words, and the file."""
    dice = random.Random(seed)
    path = dice.choice(chosen)
    kinds = [truncate, empty, flip, insert, zeros, other_kind, missing, folder_instead, pipe]
    if path.suffix in (".txt", ".json", ".pbtxt"):
        kinds += [token, token, line_twice, line_gone, line_gone, latin, binary_line, long_line]
    if path.suffix == ".json":
        kinds += [json_value] * 6
    if zipfile.is_zipfile(path):
        kinds += [member] * 6
    kind = dice.choice(kinds)
    kind(path, dice)
    return f"seed {seed}: {kind.__name__} of {path.relative_to(folder)}", path


def truncate(path, dice):
    content = path.read_bytes()
    path.write_bytes(content[: dice.randrange(len(content) or 1)])


def empty(path, dice):
    path.write_bytes(b"")


def flip(path, dice):
    content = bytearray(path.read_bytes())
    for _ in range(dice.choice((1, 1, 8, 100))):
        if content:
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def insert(path, dice):
    content = path.read_bytes()
    place = dice.randrange(len(content) + 1)
    path.write_bytes(content[:place] + dice.randbytes(dice.choice((1, 7, 5000))) + content[place:])


def zeros(path, dice):
    content = path.read_bytes()
    place = dice.randrange(len(content) + 1)
    path.write_bytes(content[:place] + bytes(len(content) - place))


def other_kind(path, dice):
    path.write_bytes(
        dice.choice(
            (
                b"<html>404 Not Found</html>",
                b"{}",
                b"[]",
                b"null",
                b"[" * 200_000,
                b"\x89PNG\r\n\x1a\n" + bytes(40),
                b"PK\x05\x06" + bytes(18),
                b"\x80\x04.",
                b"\x89HDF\r\n\x1a\n" + bytes(100),
                b"\x93NUMPY\x01\x00\x10\x00{" + bytes(30),
                b"MATLAB 5.0 MAT-file".ljust(126) + b"IM" + bytes(64),
                b"\x1f\x8b\x08" + bytes(20),
                dice.randbytes(3000),
            )
        )
    )


def missing(path, dice):
    path.unlink()


def folder_instead(path, dice):
    path.unlink()
    path.mkdir()


def pipe(path, dice):
    path.unlink()
    os.mkfifo(path)


def token(path, dice):
    lines = _lines(path)
    row = dice.randrange(len(lines))
    words = lines[row].split(b" ")
    words[dice.randrange(len(words))] = dice.choice(TOKENS).encode(errors="surrogateescape")
    lines[row] = b" ".join(words)
    path.write_bytes(b"\n".join(lines))


def line_twice(path, dice):
    lines = _lines(path)
    lines.insert(dice.randrange(len(lines)), dice.choice([line for line in lines if line.strip()] or lines))
    path.write_bytes(b"\n".join(lines))


def line_gone(path, dice):
    lines = _lines(path)
    lines.pop(dice.randrange(len(lines)))
    path.write_bytes(b"\n".join(lines))


def latin(path, dice):
    path.write_bytes(path.read_bytes() + "Möwe 1 2 3\n".encode("latin-1"))


def binary_line(path, dice):
    path.write_bytes(dice.randbytes(200) + b"\n" + path.read_bytes())


def long_line(path, dice):
    path.write_bytes(path.read_bytes() + b"x" * 10_000_000)


def _lines(path):
    return path.read_bytes().split(b"\n") or [b""]


def json_value(path, dice):
    """Another value, or none, somewhere in the object."""
    try:
        content = json.loads(path.read_text())
    except ValueError:
        return
    other_value(content, dice)
    path.write_text(json.dumps(content))


def other_value(content, dice):
    """Puts another value, or none, somewhere into a JSON object."""
    owner, key = content, None
    for _ in range(dice.randrange(1, 5)):
        keys = list(owner) if isinstance(owner, dict) else list(range(len(owner))) if isinstance(owner, list) else []
        if not keys:
            break
        if key is not None:
            parent = owner
        key = dice.choice(keys)
        parent = owner
        if not isinstance(owner[key], dict | list) or dice.random() < 0.3:
            break
        owner = owner[key]
    if key is not None:
        if dice.random() < 0.25 and isinstance(parent, dict):
            del parent[key]
        else:
            parent[key] = dice.choice(VALUES)


def member(path, dice):
    """Another content of one member of a zip archive, whose checksums are right."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if not members:
        return
    name = dice.choice(list(members))
    inside = path.with_name(f"inside-{path.name}")
    inside.write_bytes(members.pop(name))
    kind = dice.choice((truncate, empty, flip, insert, zeros, other_kind, bomb, missing))
    kind(inside, dice)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for other, content in members.items():
            archive.writestr(other, content)
        if inside.exists():
            archive.write(inside, name)
            inside.unlink()


def bomb(path, dice):
    """Ends in 300 MB of zeros."""
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + 300_000_000)


class Late(BaseException):
    """Past what a loader may take; no handler of errors takes it for one."""


@contextlib.contextmanager
def _in_time():
    def late(*_):
        raise Late(f"no answer within {SECONDS} s")

    former = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def _memory(peak):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM" if peak else "VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such line")


def _forget_peak():
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def answer(work, folder, path):
    """What is wrong with how `work` takes damaged files, or None; and the error it raised, if any.

    It may succeed, or raise a ValueError or an OSError that names the file, or the folder it is missing from.
    """
    # A path is named in part where the rest is said elsewhere.
    names = {str(path), path.name, str(path.parent), *(str(one) for one in path.parents if one.is_relative_to(folder))}
    counted = _forget_peak()
    before = _memory(peak=False)
    try:
        with warnings.catch_warnings(), _in_time():
            warnings.simplefilter("ignore")
            work()
        return None, None
    except (ValueError, OSError) as error:
        text = str(error)
        if type(error) not in EXPECTED and not isinstance(error, OSError) and type(error).__name__ != "DataError":
            return f"{type(error).__name__}: {text[:300]}", error
        if not any(name in text for name in names):
            return f"names no file: {type(error).__name__}: {text[:300]}", error
        if len(text) > 6000:
            return f"a text of {len(text)} characters: {text[:200]}", error
        if "allow_pickle" in text or "safe_mode=False" in text:
            return f"advice that is dangerous: {text[:300]}", error
        if counted and _memory(peak=True) - before > MEMORY:
            return f"takes {(_memory(peak=True) - before) / 2**20:.0f} MiB: {text[:200]}", error
        return None, error
    except (Exception, Late) as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        at = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else ""
        return f"{type(error).__name__}: {str(error)[:300]} at {at}", error


EXPECTED = (ValueError,)


def copied(template, target):
    """A copy of a folder, to be damaged."""
    if target.exists():
        shutil.rmtree(target)
    return shutil.copytree(template, target, symlinks=True)
