"""What `--gallery DATA` and `--add DATA` may name: a benchmark split, a folder of images, an .npz of embeddings."""

import pathlib
from typing import TYPE_CHECKING

from export.gallery import Gallery
from export.image_header import image_size

if TYPE_CHECKING:
    from keras_dml.data import Split

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
HELP = (
    "what can be found: a folder of images (a sub-folder's name becomes the label), an .npz file with arrays "
    "`embeddings` (n, d), `ids` (n,) and any metadata columns (n,), or a benchmark, NAME or NAME:test, NAME:train, "
    "NAME:gallery"
)


def open_source(
    data: str, data_dir: str | pathlib.Path | None = None, subset: bool = False, bad_images: str = "fail"
) -> "Gallery | Split":
    """Opens a gallery by its name on the command line.

    Args:
        data: See `HELP`.
        data_dir: Folder with benchmark data.
        subset: Whether a benchmark may have other numbers of images and classes than the published protocol.
        bad_images: "fail", or "skip" to leave out images that cannot be read.

    Raises:
        ValueError: The name means nothing, or files in the folder are not images.
    """
    path = pathlib.Path(data)
    if path.is_dir():
        return open_folder(path, bad_images == "skip")
    if path.suffix == ".npz":
        if not path.is_file():
            raise ValueError(f"There is no file {data}")
        return Gallery.from_npz(path)
    if path.exists():
        raise ValueError(f"A gallery must be a folder, an .npz file or a benchmark. Received: {data}")
    from keras_dml.data import BENCHMARKS, load

    name, _, side = data.partition(":")
    if name not in BENCHMARKS:
        raise ValueError(
            f"A gallery must be a folder, an .npz file or a benchmark ({', '.join(sorted(BENCHMARKS))}). "
            f"Received: {data!r}, which is none of them"
        )
    if side not in ("", "train", "test", "gallery"):
        raise ValueError(f"A benchmark's side must be train, test or gallery. Received: {data!r}")
    benchmark = load(name, data_dir, subset, bad_images)
    split = getattr(benchmark, side) if side else (benchmark.gallery or benchmark.test)
    if split is None:
        raise ValueError(f"Benchmark {name!r} has no separate gallery: its queries search each other. Use {name}:test")
    return split


def open_folder(folder: pathlib.Path, skip_unreadable: bool = False) -> "Split":
    """A folder's images, sub-folders included, as a split: ids are paths in the folder, labels the first sub-folder."""
    from keras_dml.data import Split

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    unreadable = {}
    for path in paths:
        try:
            with open(path, "rb") as file:
                image_size(file.read())
        except ValueError as error:
            unreadable[path] = str(error)
    if unreadable and not skip_unreadable:
        listed = "".join(f"\n  {path.relative_to(folder)}: {why}" for path, why in list(unreadable.items())[:5])
        more = f"\n  and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
        raise ValueError(
            f"{len(unreadable)} files in {folder} are not images:{listed}{more}\n(--bad-images skip leaves them out)"
        )
    paths = [path for path in paths if path not in unreadable]
    names = [path.relative_to(folder).as_posix() for path in paths]
    labels = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(labels))
    position = {name: number for number, name in enumerate(classes)}
    return Split([str(path) for path in paths], [position[label] for label in labels], classes, names)
