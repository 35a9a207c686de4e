"""Data sets that TensorFlow Datasets has prepared, read in place with random access.

A prepared data set is a folder `NAME[/CONFIG]/VERSION` of TFRecord or ArrayRecord shards. One pass over them compares
all checksums, notes where each encoded image lies and keeps its labels; after that, images are read straight from the
shards. The notes are cached, so the pass happens once.
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from keras_dml.data import reading
from keras_dml.data.array_cache import cached
from keras_dml.data.benchmark import Archive
from keras_dml.data.errors import DataError
from keras_dml.data.loading import LoadOptions
from keras_dml.data.sources import ArrayRecordImages, PackedImages, array_record_reader
from keras_dml.utils.files import read_json_object
from keras_dml.utils.requirements import tensorflow_module

INDEX_FORMAT = 2
INFO_FILE = "dataset_info.json"
FORMATS: Final = ("tfrecord", "array_record")
PREPARE_AGAIN = "Prepare the data set again"
_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")


class RecordTable:
    """The images of some splits of a prepared data set, and what is known about each.

    Args:
        images: Where the encoded images are.
        columns: `(n, ...)` values by feature name.
        splits: `(n,)` name of the split each image comes from.
        class_names: Names of the classes of the label features that have names.
        folder: The version of the data set, for errors.
    """

    def __init__(
        self,
        images: PackedImages,
        columns: Mapping[str, np.ndarray],
        splits: np.ndarray,
        class_names: Mapping[str, tuple[str, ...]],
        folder: pathlib.Path,
    ) -> None:
        self.folder = folder
        self.images = images
        self.columns = dict(columns)
        self.splits = splits
        self.class_names = dict(class_names)

    def __len__(self) -> int:
        return len(self.images)

    def labels(self, name: str = "label", classes: int | None = None) -> np.ndarray:
        """The class numbers in a column, `(n,)`, from 0.

        Args:
            name: The column.
            classes: How many classes there are; as many as have names by default.

        Raises:
            DataError: They are no such numbers.
        """
        values = self.columns[name]
        count = len(self.names(name)) if classes is None else classes
        if len(values) and (
            values.ndim != 1 or values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= count
        ):
            found = f"numbers from {values.min()} to {values.max()}" if values.dtype.kind in "iu" else values.dtype
            raise DataError(
                f"{self.folder}: the feature {name!r} must be one whole number from 0 to {count - 1} in each record. "
                f"Received: {found}. {PREPARE_AGAIN}"
            )
        return values.astype(np.int64)

    def texts(self, name: str) -> list[str]:
        """The texts in a column.

        Raises:
            DataError: They are no texts.
        """
        values = self.columns[name]
        if len(values) and (values.ndim != 1 or values.dtype.kind != "U"):
            raise DataError(
                f"{self.folder}: the feature {name!r} must be one text in each record. Received: {values.dtype} of "
                f"shape {values.shape[1:]}. {PREPARE_AGAIN}"
            )
        return values.tolist()

    def names(self, name: str = "label") -> tuple[str, ...]:
        """The names of the classes of a column.

        Raises:
            DataError: They are missing.
        """
        if name not in self.class_names:
            raise DataError(f"{_names_file(self.folder, name)} is missing: a class name a line. {PREPARE_AGAIN}")
        return self.class_names[name]


@dataclasses.dataclass(frozen=True)
class PreparedInfo:
    """What dataset_info.json says, as far as it is needed.

    Args:
        folder: Where it lies: one version of a data set.
        name: The data set.
        config: Its configuration; None where it has none, or an old version did not write it.
        file_format: One of `FORMATS`, or another that is not read.
        shards: Records of each shard, by split.
    """

    folder: pathlib.Path
    name: str
    config: str | None
    file_format: str
    shards: dict[str, tuple[int, ...]]

    @classmethod
    def read(cls, folder: pathlib.Path) -> "PreparedInfo":
        """Reads a version's file.

        Raises:
            ValueError: The file is damaged or not what TensorFlow Datasets writes.
            OSError: It cannot be read.
        """
        path = folder / INFO_FILE
        content = read_json_object(path)

        def value(source: Any, key: str, kind: type, default: Any = None) -> Any:
            found = source.get(key, default) if isinstance(source, dict) else None
            if not isinstance(found, kind):
                raise DataError(
                    f"{path}: `{key}` must be a {kind.__name__}. Received: {type(found).__name__}. {PREPARE_AGAIN}"
                )
            return found

        shards = {}
        for entry in value(content, "splits", list, []):
            split = value(entry, "name", str)
            lengths = value(entry, "shardLengths", list, [])
            # Protocol buffers write 64-bit numbers as text.
            if not all(re.fullmatch(r"\d{1,15}", str(length)) for length in lengths):
                raise DataError(
                    f"{path}: `shardLengths` of the split {split!r} must be whole numbers. Received: {lengths[:5]}. "
                    f"{PREPARE_AGAIN}"
                )
            shards[split] = tuple(int(length) for length in lengths)
        config = content.get("configName")
        return cls(
            folder,
            value(content, "name", str),
            config if isinstance(config, str) else None,
            value(content, "fileFormat", str, "tfrecord"),
            shards,
        )

    def paths(self, split: str) -> list[pathlib.Path]:
        """The shards of a split.

        Raises:
            DataError: There is no such split, a shard is missing, or the format is not read.
        """
        if self.file_format not in FORMATS:
            raise DataError(
                f"{self.folder} is prepared in the format {self.file_format!r}; {' and '.join(FORMATS)} are read. "
                f'Prepare it again with tfds.builder({self.name!r}, file_format="tfrecord")'
            )
        if split not in self.shards:
            raise DataError(
                f"{self.folder} has no split {split!r}. Splits there: {', '.join(sorted(self.shards)) or 'none'}"
            )
        number = len(self.shards[split])
        stem = f"{self.name}-{split}.{self.file_format}"
        others = sorted(path.name for path in self.folder.glob(f"{stem}-*"))
        if not number and others:
            raise DataError(
                f"{self.folder / INFO_FILE} knows no shards of {split!r}, and {others[0]} is there. {PREPARE_AGAIN}"
            )
        paths = [self.folder / f"{stem}-{shard:05d}-of-{number:05d}" for shard in range(number)]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise DataError(
                f"{self.folder} lacks {len(missing)} of {number} shards of {split!r}. The first: {missing[0]}. "
                f"{PREPARE_AGAIN}"
            )
        return paths


def default_folder() -> pathlib.Path:
    """The default folder of TensorFlow Datasets."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def find_prepared(data_dir: pathlib.Path | None, dataset: str, config: str | None = None) -> pathlib.Path | None:
    """The newest whole version of a prepared data set; warns of newer ones that are not whole.

    Args:
        data_dir: A folder with data sets of TensorFlow Datasets, or the data set's own folder, or one version of it;
            that library's default folder if None.
        dataset: The data set's name there.
        config: Its configuration, for data sets that have some.

    Raises:
        DataError: There are versions, and none of them is whole.
    """
    if data_dir is None:
        data_dir = default_folder()
    name = dataset if config is None else f"{dataset}/{config}"
    folders = [data_dir / name, data_dir] if config is None else [data_dir / name, data_dir / config, data_dir]
    damaged: list[str] = []
    for folder in folders:
        versions = [path.parent for path in folder.glob(f"*/{INFO_FILE}") if _version(path.parent.name)]
        if (folder / INFO_FILE).is_file():
            versions.append(folder)
        for version in sorted(versions, key=lambda path: _version(path.name), reverse=True):
            try:
                info = PreparedInfo.read(version)
                if info.name != dataset or (config is not None and info.config not in (None, config)):
                    continue
                for split in info.shards:
                    info.paths(split)
            except (ValueError, OSError) as error:
                damaged.append(str(error))
                continue
            if damaged:
                warnings.warn(f"{version} is read, as newer versions are not whole: {'; '.join(damaged)}", stacklevel=2)
            return version
    if damaged:
        raise DataError(damaged[0] if len(damaged) == 1 else f"No version is whole: {'; '.join(damaged)}")
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
        DataError: If a split or a feature is not there, or a shard is damaged; the text names the record.
        ImportError: Without TensorFlow, the first time; what was noted then is read without it.
    """
    info = PreparedInfo.read(folder)
    shards = [_Shard(split, *known) for split in splits for known in _known(info, split)]
    array_records = info.file_format == "array_record"
    table = cached(_cache_name(folder, shards, columns), lambda: _index(shards, columns, array_records))
    files, file_index = [shard.path for shard in shards], table["file_index"]
    boxes = table.get("column:bbox")
    images = (
        ArrayRecordImages(files, file_index, table["records"], table["offsets"], table["lengths"], boxes)
        if array_records
        else PackedImages(files, file_index, table["offsets"], table["lengths"], boxes)
    )
    return RecordTable(
        images,
        {name: table[f"column:{name}"] for name in columns},
        np.array([shard.split for shard in shards])[file_index] if len(file_index) else np.array([], dtype=str),
        _class_names(folder, columns),
        folder,
    )


@dataclasses.dataclass(frozen=True)
class _Shard:
    split: str
    path: pathlib.Path
    records: int


def _known(info: PreparedInfo, split: str) -> Iterator[tuple[pathlib.Path, int]]:
    yield from zip(info.paths(split), info.shards[split], strict=True)


def _version(name: str) -> tuple[int, ...]:
    match = re.fullmatch(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", name)
    return tuple(map(int, match.groups())) if match else ()


def _names_file(folder: pathlib.Path, column: str) -> pathlib.Path:
    return folder / f"{column.replace('/', '.')}.labels.txt"


def _class_names(folder: pathlib.Path, columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    # TensorFlow Datasets keeps the names of a ClassLabel feature as one file, a name a line.
    names = {}
    for column in columns:
        path = _names_file(folder, column)
        if path.is_file():
            names[column] = tuple(line.text for line in reading.lines(path))
            _check_names(path, names[column], column)
    return names


def _check_names(path: pathlib.Path, names: Sequence[str], column: str) -> None:
    """Raises a DataError for a name twice, and for another number of names than features.json says."""
    twice = next((name for name, count in collections.Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path} is damaged: the name {twice!r} is there twice. {PREPARE_AGAIN}")
    features = path.with_name("features.json")
    if not features.is_file():
        return
    entry: Any = read_json_object(features)
    for key in ("featuresDict", "features", column, "classLabel", "numClasses"):
        entry = entry.get(key) if isinstance(entry, dict) else None
    if entry is not None and str(entry) != str(len(names)):
        raise DataError(
            f"{path} is damaged. Expected: {entry} names, by {features}. Found: {len(names)}. {PREPARE_AGAIN}"
        )


def _records(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """Position of the payload and payload of every record of a TFRecord file."""
    position = 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        number = 0
        while position < size:
            # A record: length, checksum of the length, payload, checksum of the payload.
            head = file.read(12)
            length = _LENGTH.unpack_from(head)[0] if len(head) == 12 else 0
            # Compared before reading: other bytes than a length may ask for any amount of memory.
            if position + 16 + length > size:
                raise DataError(f"{path} is no TFRecord file, or cut off at byte {position}. {PREPARE_AGAIN}")
            _check(path, number, position, head[:8], head[8:])
            payload = file.read(length)
            _check(path, number, position, payload, file.read(4))
            yield position + 12, payload
            position += 16 + length
            number += 1


def _check(path: pathlib.Path, number: int, position: int, content: bytes, checksum: bytes) -> None:
    """Raises unless the checksum is the content's: CRC-32C, masked as TFRecords have it."""
    import google_crc32c

    crc = google_crc32c.value(content)
    if _CHECKSUM.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF) != checksum:
        raise DataError(
            f"{path} is damaged: the checksum of record {number}, at byte {position}, is wrong. {PREPARE_AGAIN}"
        )


def _array_records(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """Number and payload of every record of an ArrayRecord file, whose reader compares checksums."""
    with array_record_reader(path) as reader:
        for number in range(reader.num_records()):
            try:
                yield number, reader.read([number])[0]
            except (RuntimeError, ValueError, IndexError) as error:
                raise DataError(
                    f"{path} is damaged: record {number} cannot be read: {error}. {PREPARE_AGAIN}"
                ) from error


def _index(shards: Sequence[_Shard], columns: Sequence[str], array_records: bool) -> dict[str, np.ndarray]:
    tensorflow = tensorflow_module("tensorflow", "Reading the records of TensorFlow Datasets")
    from google.protobuf.message import DecodeError

    files: list[int] = []
    records: list[int] = []
    offsets: list[int] = []
    lengths: list[int] = []
    values: dict[str, list] = {name: [] for name in columns}
    for number, shard in enumerate(shards):
        found = 0
        for position, payload in (_array_records if array_records else _records)(shard.path):
            where = f"{shard.path}, record {found}"
            try:
                features = tensorflow.train.Example.FromString(payload).features.feature
            except DecodeError as error:
                raise DataError(f"{where}: no example, at byte {position}: {error}. {PREPARE_AGAIN}") from error
            for name in ("image", *columns):
                if name not in features:
                    raise DataError(f"{where}: no feature {name!r}. Features: {', '.join(sorted(features))}")
            image = features["image"].bytes_list.value
            if len(image) != 1:
                raise DataError(
                    f"{where}: the feature 'image' must be one encoded image. Received: {len(image)}. {PREPARE_AGAIN}"
                )
            files.append(number)
            records.append(found)
            # The encoded image lies in the record as it is.
            offsets.append(payload.index(image[0]) + (0 if array_records else position))
            lengths.append(len(image[0]))
            for name in columns:
                value = _value(where, name, features[name])
                first = values[name][0] if values[name] else value
                if type(value) is not type(first) or np.shape(value) != np.shape(first):
                    raise DataError(
                        f"{where}: the feature {name!r} is of another form than in the records before. {PREPARE_AGAIN}"
                    )
                values[name].append(value)
            found += 1
        if found != shard.records:
            raise DataError(
                f"{shard.path} holds {found} records; by {INFO_FILE} (shardLengths) it has {shard.records}. "
                f"{PREPARE_AGAIN}"
            )
    table: dict[str, np.ndarray] = {
        "file_index": np.array(files, np.int32),
        "records": np.array(records, np.int64),
        "offsets": np.array(offsets, np.int64),
        "lengths": np.array(lengths, np.int64),
    }
    for name, column in values.items():
        table[f"column:{name}"] = np.array(column, np.float32) if name == "bbox" else np.array(column)
    return table


def _value(where: str, name: str, feature: Any) -> int | float | str | list:
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    try:
        values = [value.decode("utf-8") if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: the feature {name!r} is not UTF-8 text. {PREPARE_AGAIN}") from error
    if name == "bbox":
        _check_box(where, values)
    elif not values:
        raise DataError(f"{where}: the feature {name!r} is empty. {PREPARE_AGAIN}")
    return values[0] if len(values) == 1 else values


def _check_box(where: str, box: list) -> None:
    """Raises unless a box is `ymin, xmin, ymax, xmax` in [0, 1] with an area."""
    if len(box) != 4 or any(not isinstance(side, float) for side in box):
        raise DataError(f"{where}: 'bbox' must be four fractions. Received: {box[:5]}. {PREPARE_AGAIN}")
    top, left, bottom, right = box
    # Rounding may carry a side past the edge.
    if not (-1e-4 <= top < bottom <= 1 + 1e-4 and -1e-4 <= left < right <= 1 + 1e-4):
        raise DataError(
            f"{where}: 'bbox' (ymin, xmin, ymax, xmax) must lie in the image, in [0, 1], and have an area. Received: "
            f"{box}. {PREPARE_AGAIN}"
        )


def _cache_name(folder: pathlib.Path, shards: Sequence[_Shard], columns: Sequence[str]) -> str:
    states = [
        (
            shard.split,
            str(shard.path.resolve()),
            shard.path.stat().st_size,
            shard.path.stat().st_mtime_ns,
            shard.records,
        )
        for shard in shards
    ]
    key = hashlib.sha256(json.dumps([INDEX_FORMAT, states, list(columns)]).encode()).hexdigest()[:16]
    return f"tfrecords/{folder.parent.name}-{key}.npz"
