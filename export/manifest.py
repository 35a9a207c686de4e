"""manifest.json: what a version is, where it came from and the checksum of every file."""

import hashlib
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Iterable
from typing import Any

from keras_dml.utils.files import read_json_object, sha256

FORMAT = 2
# Format 1 named no index engine and kept the exact twin in `brute_force/`.
READABLE = (1, 2)
NAME = "manifest.json"
LIBRARIES = ("tensorflow", "keras", "numpy")
CHECKSUM = "sha256"


def write(folder: pathlib.Path, content: dict[str, Any], libraries: Iterable[str] = ()) -> None:
    """Writes the manifest, adding format, library versions and the files with sha256 and size.

    Args:
        folder: The version.
        content: Everything else.
        libraries: Distributions beside `LIBRARIES` whose versions matter.
    """
    versions = library_versions((*LIBRARIES, *libraries))
    manifest = {"format": FORMAT, **content, "libraries": versions, "files": checksums(folder)}
    manifest[CHECKSUM] = _checksum(manifest)
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of a version directory."""
    path = folder / NAME
    manifest = read_json_object(path)
    if manifest.get("format") not in READABLE:
        raise ValueError(
            f"{path}: this release reads manifests of format 1 and 2. Received: format {manifest.get('format')!r}"
        )
    # Versions of earlier releases have none.
    if CHECKSUM in manifest and manifest[CHECKSUM] != _checksum(manifest):
        raise ValueError(f"{path} is damaged: it differs from its checksum. Copy the version again, or build it again")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)
        for entry in files.values()
    ):
        raise ValueError(f"{path} is damaged. Expected: `files` with bytes and sha256 of each. Build the version again")
    return manifest


def verify(folder: pathlib.Path, manifest: dict[str, Any], checksum: bool) -> None:
    """Compares the files of a version with its manifest: size always, sha256 if `checksum`.

    Raises:
        ValueError: A file is missing or differs.
    """
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{folder}: the file {name} is missing. Copy the version again, or build it again")
        if path.stat().st_size != entry["bytes"] or (checksum and sha256(path) != entry["sha256"]):
            raise ValueError(
                f"{folder}: the file {name} differs from the manifest. Copy the version again, or build it again"
            )


def _checksum(manifest: dict[str, Any]) -> str:
    """Of everything in a manifest but the checksum itself."""
    rest = {key: value for key, value in manifest.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()


def checksums(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """`{relative path: {"sha256", "bytes"}}` of every file but the manifest."""
    return {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / NAME
    }


def library_versions(libraries: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of those of the libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
