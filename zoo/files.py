"""Files of a run folder, each written whole or not at all."""

import hashlib
import json
import os
import pathlib
from typing import Any

RECORDS = pathlib.Path(__file__).parent / "records"
"""The records of the experiments that we ran, `NAME.json`."""


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` as JSON, aside first and then in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(json.dumps(value, indent=1, default=_plain) + "\n", encoding="utf-8")
    os.replace(aside, path)


def as_json(value: Any) -> Any:
    """`value` as it would be read back from a JSON file: tuples become lists."""
    return json.loads(json.dumps(value, default=_plain))


def read_json(path: pathlib.Path) -> Any:
    """Reads what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: pathlib.Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
