"""`keras-dml update MODEL_DIR --add DATA --remove ID`: a new version with items added and removed."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from export import manifest, versions
from export.build import AFTER_INTERRUPT, build_model, gallery_of
from export.build_options import BuildOptions
from export.changes import NAME, Change, ChangeLog, check_space
from export.deprecated import old_progress_arguments
from export.embedding import cache_key, embed_split, remove_cache
from export.encoder_files import open_encoder, open_pair_scorer
from export.gallery import Gallery
from export.index.spec import IndexSpec
from export.overlay import items_gallery
from export.sources import HELP, open_source
from export.thumbnails import Thumbnails
from export.versions import GALLERY
from keras_dml.utils.command import (
    OldFlag,
    Parser,
    WrongCallError,
    add_data_arguments,
    execute,
    positive,
    run,
    wrong_call,
)
from keras_dml.utils.encoder_files import ENCODER_FILE
from keras_dml.utils.files import check_folder
from keras_dml.utils.progress import SILENT, Progress, TerminalProgress

if TYPE_CHECKING:
    from keras_dml.data import Split


@old_progress_arguments
def update_model(
    directory: str | pathlib.Path,
    add: "Sequence[Gallery | Split]" = (),
    remove: Sequence[str] = (),
    *,
    replace: bool = False,
    keep: int | None = None,
    recall: float | None = None,
    batch_size: int = 64,
    allow_empty: bool = False,
    verify: bool = True,
    progress: Progress = SILENT,
) -> pathlib.Path:
    """Writes the next version of a model, with items removed and then items added at the end.

    Changes that a server took since the newest version was built are folded in first.

    Only images whose id is new are embedded. An index that was chosen and calibrated is chosen and calibrated again;
    settings given by hand stay.

    Args:
        directory: The model directory; its newest version is the base.
        add: Galleries of embeddings or splits of images.
        remove: Ids.
        replace: True embeds and replaces added items whose id is there already, False leaves those as they are.
        keep: Older versions are deleted but for the newest `keep`.
        recall: Recall at 10 to reach; that of the last version by default.
        batch_size: Images per forward pass while embedding.
        allow_empty: Whether nothing may be left.
        verify: Whether every file of the base is compared with its checksum first.
        progress: Is told what happens, and how far the stage "embedding" is.

    Returns:
        The folder of the new version.

    Raises:
        ValueError: An id to remove is unknown, or added items do not fit the gallery's width or columns.
    """
    directory = pathlib.Path(directory)
    if versions.resolve(directory) == directory:
        raise ValueError(f"`directory` must be a model directory with versions in it. Received a version: {directory}")
    while True:
        # Before the base is looked at: whoever publishes from here on takes this number.
        number = versions.next_version(directory)
        try:
            version = _update(
                directory, number, add, remove, replace, keep, recall, batch_size, allow_empty, verify, progress
            )
        except FileExistsError:
            progress.message("another version was published in the meantime: updating that one")
            continue
        versions.remove_caches(directory)
        return version


def _update(
    directory: pathlib.Path,
    number: int,
    add: "Sequence[Gallery | Split]",
    remove: Sequence[str],
    replace: bool,
    keep: int | None,
    recall: float | None,
    batch_size: int,
    allow_empty: bool,
    verify: bool,
    progress: Progress,
) -> pathlib.Path:
    """`update_model`, once.

    Raises:
        FileExistsError: Version `number` is there by now: the base is no longer the newest.
    """
    base = versions.resolve(directory)
    content = manifest.read(base)
    manifest.verify(base, content, checksum=verify)
    gallery = Gallery.open(base / GALLERY)
    log = ChangeLog.existing(directory)
    through = int(content.get("changes_through", 0))
    changes = [] if log is None else log.since(through)
    # Of every item, where its picture is: a row of the old version, or the picture itself.
    pictures_of: list[int | bytes] = list(range(len(gallery)))
    if changes:
        gallery, pictures_of = _with_changes(gallery, content, changes)
        through = changes[-1].sequence
        progress.message(f"{len(changes):,} changes since version {content['version']} folded in")
    position = {name: row for row, name in enumerate(gallery.ids)}
    unknown = [name for name in remove if name not in position]
    if unknown:
        raise ValueError(f"{len(unknown)} ids to remove are not in the gallery, first {unknown[0]!r}")

    image_encoder = open_encoder(base, content)
    dropped = set(remove)
    parts: list[Gallery] = []
    pictures: list[tuple[Split | None, np.ndarray]] = []
    caches = []
    added: set[str] = set()
    for data in add:
        rows = [
            row
            for row, name in enumerate(data.ids)
            if name not in added and (replace or name not in position or name in dropped)
        ]
        skipped = len(data.ids) - len(rows)
        if skipped:
            progress.message(f"{skipped:,} items are already there and stay as they are (--replace embeds them again)")
        if not rows:
            continue
        chosen = np.array(rows)
        if isinstance(data, Gallery):
            part = data.take(chosen)
            pictures.append((None, chosen))
        else:
            if image_encoder is None:
                raise ValueError("This model was built without an encoder: add embeddings (.npz), not images")
            split = data.subset(chosen)
            key = cache_key(base / ENCODER_FILE, image_encoder.preprocessing, split)
            cache = directory / f"{versions.CACHE_PREFIX}{key}"
            caches.append(cache)
            part = gallery_of(split, embed_split(image_encoder, split, cache, batch_size, progress))
            pictures.append((split, np.arange(len(split))))
        _check_fit(gallery, part)
        parts.append(part)
        added.update(part.ids)

    kept = np.array([row for row, name in enumerate(gallery.ids) if name not in dropped and name not in added], int)
    merged = Gallery(
        np.concatenate([gallery.embeddings[kept], *(part.embeddings for part in parts)]),
        tuple(gallery.ids[row] for row in kept) + tuple(name for part in parts for name in part.ids),
        {
            name: np.concatenate([values[kept], *(part.metadata[name] for part in parts)])
            for name, values in gallery.metadata.items()
        },
    )
    progress.message(f"{len(gallery):,} items, {len(gallery) - len(kept):,} out, {len(merged) - len(kept):,} in")
    old = Thumbnails.open(base / GALLERY)

    def write_pictures(folder: pathlib.Path) -> None:
        if old is None:
            return
        with Thumbnails.create(folder) as append:
            for row in kept:
                where = pictures_of[row]
                append(old[where] if isinstance(where, int) else where)
            for split, rows_of in pictures:
                for row in rows_of:
                    append(b"" if split is None else Thumbnails.encode(split.image(int(row))))

    reranking: dict[str, Any] | None = content.get("reranking")
    pair_scorer = None
    if reranking:
        pair_scorer = open_pair_scorer(base) if image_encoder is None else image_encoder.pair_scorer
    options = BuildOptions(
        default_k=content["default_k"],
        keep=keep,
        pair_scorer=pair_scorer,
        shortlist=reranking["shortlist"] if reranking else 100,
        pictures=write_pictures,
        source={**content["source"], "updated_from": content["version"]},
        name=content["name"],
        number=number,
        allow_empty=allow_empty,
        changes_through=through,
    )
    index = IndexSpec.from_manifest(content["index"], recall)
    version = build_model(directory, merged, image_encoder, index=index, options=options, progress=progress)
    for cache in caches:
        remove_cache(cache)
    if log is not None:
        # An older version may be served again: what it lacks is kept for as long as it is there.
        folders = [directory / str(kept_number) for kept_number in versions.versions(directory)]
        log.forget(min(int(manifest.read(folder).get("changes_through", 0)) for folder in folders))
        log.close()
    return version


def _with_changes(
    gallery: Gallery, content: dict[str, Any], changes: Sequence[Change]
) -> tuple[Gallery, list[int | bytes]]:
    """A version's gallery with the changes since: changed items leave their rows, what is left of them comes last.

    Returns:
        The gallery, and of every item the row of the old one or its picture.

    Raises:
        ValueError: The changes were embedded by another encoder.
    """
    check_space(changes, content)
    items = [change for change in changes if change.embedding is not None]
    changed = {change.id for change in changes}
    kept = [row for row, name in enumerate(gallery.ids) if name not in changed]
    rest = gallery.take(kept)
    if not items:
        return rest, list(kept)
    added = items_gallery(
        gallery,
        content["index"]["metric"],
        [item.id for item in items],
        np.stack([item.embedding for item in items if item.embedding is not None]),
        [item.metadata for item in items],
    )
    merged = Gallery(
        np.concatenate([rest.embeddings, added.embeddings]),
        rest.ids + added.ids,
        {name: np.concatenate([rest.metadata[name], added.metadata[name]]) for name in gallery.metadata},
    )
    return merged, [*kept, *(item.picture for item in items)]


def _check_fit(gallery: Gallery, part: Gallery) -> None:
    if part.dim != gallery.dim:
        raise ValueError(f"Added embeddings must have {gallery.dim} dimensions. Received: {part.dim}")
    mine = {name: values.dtype for name, values in gallery.metadata.items()}
    theirs = {name: values.dtype for name, values in part.metadata.items()}
    if mine != theirs:
        raise ValueError(
            "Added items must have the gallery's metadata columns. Expected: "
            f"{', '.join(f'{name} ({kind})' for name, kind in mine.items()) or 'none'}. Received: "
            f"{', '.join(f'{name} ({kind})' for name, kind in theirs.items()) or 'none'}"
        )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = Parser(
        "update",
        "Writes the next version of a model with items removed and added. Only new images are embedded. A "
        "running server picks the version up by itself.",
        epilog="example: keras-dml update models/shop --add new-photos/ --remove shoe-17.jpg --keep 3",
    )
    result.add_argument("model", metavar="MODEL_DIR", help="model directory that export.build wrote")
    result.add_argument("--add", action="append", default=[], metavar="DATA", help=f"{HELP}; can be given repeatedly")
    result.add_argument("--remove", nargs="+", default=[], metavar="ID", help="ids to remove")
    result.add_argument("--remove-file", metavar="FILE", help="text file with ids to remove, one a line")
    result.add_argument("--replace", action="store_true", help="re-embed added items whose id is already there")
    result.add_argument("--allow-empty", action="store_true", help="accept that no item is left")
    result.add_argument(
        "--no-verify", action="store_true", help="compare sizes, not checksums, of the files of the version before"
    )
    result.add_argument("--keep", type=positive, metavar="N", help="delete older versions but for the newest N")
    result.add_argument(
        "--recall", type=float, metavar="R", help="recall at 10 to reach (default as in the last build)"
    )
    add_data_arguments(result)
    result.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="images per forward pass (default 64)"
    )
    result.add_argument(
        "--skip-unreadable", action=OldFlag, dest="bad_images", instead="--bad-images skip", value="skip"
    )
    return result


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = parser().parse_args(argv)
    return execute(lambda: print(_run(arguments, TerminalProgress())), AFTER_INTERRUPT)


def _run(arguments: argparse.Namespace, progress: Progress) -> pathlib.Path:
    remove = list(arguments.remove)
    if arguments.remove_file:
        from keras_dml.data import reading

        remove += [line.text for line in reading.lines(pathlib.Path(arguments.remove_file), reading.MOST_LINE)]
    with wrong_call():
        check_folder(pathlib.Path(arguments.model))
    if not arguments.add and not remove and not (pathlib.Path(arguments.model) / NAME).exists():
        raise WrongCallError("Nothing to do: give --add or --remove. No server took changes of this model")
    return update_model(
        arguments.model,
        [open_source(data, arguments.data_dir, arguments.subset, arguments.bad_images) for data in arguments.add],
        remove,
        replace=arguments.replace,
        keep=arguments.keep,
        recall=arguments.recall,
        batch_size=arguments.batch_size,
        allow_empty=arguments.allow_empty,
        verify=not arguments.no_verify,
        progress=progress,
    )


if __name__ == "__main__":
    run(main)
