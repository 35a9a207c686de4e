"""Data sets that TensorFlow Datasets has prepared, read in place with random access.

A prepared data set is a folder `NAME[/CONFIG]/VERSION` of TFRecord shards. One pass over them notes where each encoded
image lies and keeps its labels; after that, images are read straight from the shards. The notes are cached, so the
pass happens once.
"""

import hashlib
import json
import os
import pathlib
import re
import struct
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from keras_dml.data.array_cache import cached
from keras_dml.data.benchmark import Archive
from keras_dml.data.errors import DataError
from keras_dml.data.loading import LoadOptions
from keras_dml.data.sources import PackedImages
from keras_dml.utils.requirements import tensorflow_module

INDEX_FORMAT = 1
LENGTH = struct.Struct("<Q")


class RecordTable:
    """The images of some splits of a prepared data set, and what is known about each.

    Args:
        images: Where the encoded images are.
        columns: `(n, ...)` values by feature name.
        splits: `(n,)` name of the split each image comes from.
        class_names: Names of the classes of the label features that have names.
    """

    def __init__(
        self,
        images: PackedImages,
        columns: Mapping[str, np.ndarray],
        splits: np.ndarray,
        class_names: Mapping[str, tuple[str, ...]],
    ) -> None:
        self.images = images
        self.columns = dict(columns)
        self.splits = splits
        self.class_names = dict(class_names)

    def __len__(self) -> int:
        return len(self.images)


def default_folder() -> pathlib.Path:
    """The default folder of TensorFlow Datasets."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def find_prepared(data_dir: pathlib.Path | None, dataset: str, config: str | None = None) -> pathlib.Path | None:
    """The newest version of a prepared data set.

    Args:
        data_dir: A folder with data sets of TensorFlow Datasets, or the data set's own folder, or one version of it;
            that library's default folder if None.
        dataset: The data set's name there.
        config: Its configuration, for data sets that have some.
    """
    if data_dir is None:
        data_dir = default_folder()
    name = dataset if config is None else f"{dataset}/{config}"
    folders = [data_dir / name, data_dir] if config is None else [data_dir / name, data_dir / config, data_dir]
    for folder in folders:
        versions = [path.parent for path in folder.glob("*/dataset_info.json") if _version(path.parent.name)]
        if (folder / "dataset_info.json").is_file():
            versions.append(folder)
        for version in sorted(versions, key=lambda path: _version(path.name), reverse=True):
            info = json.loads((version / "dataset_info.json").read_text(encoding="utf-8"))
            if info.get("name") == dataset and (config is None or info.get("configName", config) == config):
                return version
    return None


def prepared(
    name: str,
    options: LoadOptions,
    dataset: str,
    archives: Sequence[Archive],
    layout: str,
    config: str | None = None,
) -> pathlib.Path:
    """The folder of a data set prepared by TensorFlow Datasets, downloaded if that is allowed and needed.

    Raises:
        DataError: If it is not there, with what is looked for and what archives it comes from.
    """
    found = find_prepared(options.data_dir, dataset, config)
    if found is not None:
        return found
    if options.may_download:
        return download(options.data_dir, dataset, archives, layout, config)
    needed = "\n".join(f"  {archive}" for archive in archives)
    records = f"{dataset}{'' if config is None else '/' + config}/VERSION"
    if options.data_dir is None:
        raise DataError(
            f"The benchmark {name!r} is not in {default_folder()}, where TensorFlow Datasets prepares it as "
            f"{records}, and download=False. Leave out download=False to have it downloaded, or give the folder with "
            f"the data (data_dir). It looked there for the unpacked archives:\n{layout}\nThe archives:\n{needed}"
        )
    missing = "holds no such data" if options.data_dir.exists() else "does not exist"
    raise DataError(
        f"The benchmark {name!r}: {options.data_dir} {missing}. Looked for the unpacked archives:\n{layout}\n"
        f"or for {records} as TensorFlow Datasets prepares it. Without a data folder (data_dir, --data-dir) that "
        f"library downloads and prepares it in {default_folder()}, with download=True (in Python) in the "
        f"folder given. The archives:\n{needed}"
    )


def download(
    data_dir: pathlib.Path | None,
    dataset: str,
    archives: Sequence[Archive],
    layout: str,
    config: str | None = None,
) -> pathlib.Path:
    """Downloads and prepares a data set with TensorFlow Datasets; the folder of the prepared version.

    Raises:
        DataError: If that fails, with the archives that are needed and what to do with them.
    """
    tfds = tensorflow_module("tensorflow_datasets", f"Downloading {dataset!r}")
    name = dataset if config is None else f"{dataset}/{config}"
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
    except Exception as error:
        place = data_dir or "a folder of yours"
        needed = "\n".join(f"  {archive}" for archive in archives)
        raise DataError(
            f"TensorFlow Datasets could not download or prepare {name!r}: "
            f"{str(error).strip() or type(error).__name__}\n"
            "The address may have moved. Get the archives from elsewhere, check their "
            f"checksums, unpack them into {place}, and pass that folder as data_dir (--data-dir).\n"
            f"Needed:\n{needed}\nExpected after unpacking:\n{layout}"
        ) from error
    found = find_prepared(pathlib.Path(builder.data_dir), dataset, config)
    if found is None:
        raise DataError(
            f"TensorFlow Datasets prepared {name!r} in {builder.data_dir}, but no dataset_info.json is there"
        )
    return found


def read_table(folder: pathlib.Path, splits: Sequence[str], columns: Sequence[str]) -> RecordTable:
    """Reads where the images of a prepared data set are, and their other features.

    Args:
        folder: One version of the data set.
        splits: Splits to read, in this order.
        columns: Names of features besides "image"; numbers and text of fixed length.

    Raises:
        DataError: If a split or a feature is not there, or the files are no TFRecords.
        ImportError: Without TensorFlow, the first time; what was noted then is read without it.
    """
    shards = [(split, path) for split in splits for path in _shards(folder, split)]
    table = cached(_cache_name(folder, shards, columns), lambda: _index(shards, columns))
    file_index = table["file_index"]
    boxes = table.get("column:bbox")
    return RecordTable(
        PackedImages([path for _, path in shards], file_index, table["offsets"], table["lengths"], boxes),
        {name: table[f"column:{name}"] for name in columns},
        np.array([split for split, _ in shards])[file_index] if len(file_index) else np.array([], dtype=str),
        _class_names(folder, columns),
    )


def _version(name: str) -> tuple[int, ...]:
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", name)
    return tuple(map(int, match.groups())) if match else ()


def _shards(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    kind = info.get("fileFormat", "tfrecord")
    if kind != "tfrecord":
        raise DataError(
            f"{folder} is prepared in the format {kind!r}; only TFRecords are read. Prepare it again with "
            f'tfds.builder({info.get("name")!r}, file_format="tfrecord")'
        )
    known = {entry["name"]: len(entry["shardLengths"]) for entry in info.get("splits", [])}
    if split not in known:
        raise DataError(f"{folder} has no split {split!r}. Splits there: {', '.join(sorted(known)) or 'none'}")
    number = known[split]
    paths = [folder / f"{info['name']}-{split}.tfrecord-{shard:05d}-of-{number:05d}" for shard in range(number)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{folder} lacks {len(missing)} of {number} shards of {split!r}. The first: {missing[0]}")
    return paths


def _class_names(folder: pathlib.Path, columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    # TensorFlow Datasets keeps the names of a ClassLabel feature as one file, a name a line.
    names = {}
    for column in columns:
        path = folder / f"{column.replace('/', '.')}.labels.txt"
        if path.is_file():
            names[column] = tuple(path.read_text(encoding="utf-8").splitlines())
    return names


def _records(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """Position of the payload and payload of every record of a TFRecord file."""
    position = 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while position < size:
            # A record: length, checksum of the length, payload, checksum of the payload.
            head = file.read(12)
            length = LENGTH.unpack_from(head)[0] if len(head) == 12 else 0
            # Compared before reading: other bytes than a length may ask for any amount of memory.
            if position + 16 + length > size:
                raise DataError(
                    f"{path} is no TFRecord file, or cut off at byte {position}. Prepare the data set again"
                )
            payload = file.read(length)
            file.read(4)
            yield position + 12, payload
            position += 16 + length


def _index(shards: Sequence[tuple[str, pathlib.Path]], columns: Sequence[str]) -> dict[str, np.ndarray]:
    tensorflow = tensorflow_module("tensorflow", "Reading the records of TensorFlow Datasets")
    from google.protobuf.message import DecodeError

    files: list[int] = []
    offsets: list[int] = []
    lengths: list[int] = []
    values: dict[str, list] = {name: [] for name in columns}
    for number, (_, path) in enumerate(shards):
        for position, payload in _records(path):
            try:
                features = tensorflow.train.Example.FromString(payload).features.feature
            except DecodeError as error:
                raise DataError(
                    f"{path} holds no example at byte {position}: {error}. Prepare the data set again"
                ) from error
            for name in ("image", *columns):
                if name not in features:
                    raise DataError(
                        f"Records of {path} have no feature {name!r}. Features: {', '.join(sorted(features))}"
                    )
            image = features["image"].bytes_list.value[0]
            files.append(number)
            # The encoded image lies in the record as it is.
            offsets.append(position + payload.index(image))
            lengths.append(len(image))
            for name in columns:
                values[name].append(_value(features[name]))
    table: dict[str, np.ndarray] = {
        "file_index": np.array(files, np.int32),
        "offsets": np.array(offsets, np.int64),
        "lengths": np.array(lengths, np.int64),
    }
    for name, column in values.items():
        table[f"column:{name}"] = np.array(column, np.float32) if name == "bbox" else np.array(column)
    return table


def _value(feature: object) -> object:
    kind = feature.WhichOneof("kind")  # type: ignore[attr-defined]
    values = list(getattr(feature, kind).value)
    value = values[0] if len(values) == 1 else values
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _cache_name(folder: pathlib.Path, shards: Sequence[tuple[str, pathlib.Path]], columns: Sequence[str]) -> str:
    states = [(split, str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for split, path in shards]
    key = hashlib.sha256(json.dumps([INDEX_FORMAT, states, list(columns)]).encode()).hexdigest()[:16]
    return f"tfrecords/{folder.parent.name}-{key}.npz"
