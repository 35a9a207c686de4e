"""Tiny data sets in the on-disk format of TensorFlow Datasets, written by that library's own builders.

Each has the name, version and features of the real one; only the examples are ours.
"""

import io
import json

import google_crc32c
import numpy as np
from backend_checks import tensorflow_or_skip

tensorflow_or_skip()

import tensorflow_datasets as tfds  # noqa: E402
from tensorflow_datasets.core import registered  # noqa: E402
from tensorflow_datasets.datasets.stanford_online_products import stanford_online_products_dataset_builder as sop  # noqa: E402
from tensorflow_datasets.image_classification import caltech_birds, cars196, omniglot  # noqa: E402
from tensorflow_datasets.image_classification.domainnet import domainnet  # noqa: E402
from tiny_pictures import jpeg  # noqa: E402


def _prepare(base, examples, data_dir, name=None, config=None, names=None):
    """Writes `{split: [(key, example)]}` as `base` would."""
    with registered.skip_registration():

        class Tiny(base):
            def _split_generators(self, dl_manager):
                for feature, values in (names or {}).items():
                    self.info.features[feature].names = values
                return {split: iter(rows) for split, rows in examples.items()}

            def _generate_examples(self, *arguments):
                raise AssertionError("not used")

    Tiny.name = name or base.name
    # The real builder's folder, with its description.
    Tiny.pkg_dir_path = base._get_pkg_dir_path()
    builder = Tiny(data_dir=data_dir, **({"config": config} if config else {}))
    builder.download_and_prepare()
    return builder


def box(ymin=0.0, xmin=0.0, ymax=1.0, xmax=1.0):
    return tfds.features.BBox(ymin=ymin, xmin=xmin, ymax=ymax, xmax=xmax)


def cub200(data_dir, classes=(0, 1, 2, 100, 101), per_class=4):
    """Images of each class alternate between the training and the test split, as in the original."""
    examples = {"train": [], "test": []}
    for label in classes:
        for number in range(per_class):
            name = f"CUB_200_2011/images/{label + 1:03d}.Bird_{label}/Bird_{label}_{number:04d}.jpg"
            example = {
                "image": image_file(label * 100 + number),
                "image/filename": name,
                "label": label,
                "label_name": f"bird_{label}",
                "bbox": box(0.2, 0.1, 0.8, 0.9),
                "segmentation_mask": np.zeros((30, 40, 1), np.uint8),
            }
            examples["train" if number % 2 else "test"].append((name, example))
    return _prepare(caltech_birds.CaltechBirds2011, examples, data_dir, "caltech_birds2011")


def cars(data_dir, classes=(0, 97, 98, 195), per_class=4):
    examples = {"train": [], "test": []}
    for label in classes:
        for number in range(per_class):
            split = "train" if number % 2 else "test"
            # Numbers start again in each split, as in the original.
            key = f"{len(examples[split]) + 1:05d}"
            example = {"image": image_file(label * 100 + number), "label": label, "bbox": box(), "id": key}
            examples[split].append((key, example))
    return _prepare(cars196.Cars196, examples, data_dir, "cars196")


def online_products(data_dir, train=(0, 1, 5), test=(11318, 11319), per_class=3):
    examples = {"train": [], "test": []}
    for split, classes in (("train", train), ("test", test)):
        for number in range(per_class):
            for label in classes:
                example = {
                    "class_id": label,
                    "super_class_id/num": 1,
                    "super_class_id": "cabinet",
                    "image": image_file(label * 100 + number),
                }
                examples[split].append((len(examples[split]), example))
    return _prepare(sop.Builder, examples, data_dir, "stanford_online_products")


def characters(data_dir, train=4, test=3, per_class=5):
    names = [f"Alphabet_{label // 2}_{label % 2}" for label in range(1623)]
    examples = {"train": [], "test": [], "small1": [], "small2": []}
    for label in range(train + test):
        for number in range(per_class):
            drawing = np.full((105, 105, 3), 255, np.uint8)
            drawing[10 * label : 10 * label + 8, 5 * number : 5 * number + 40] = 0
            example = {"image": drawing, "alphabet": label // 2, "alphabet_char_id": label % 2, "label": label}
            split = "train" if label < train else "test"
            examples[split].append((f"{label}_{number}", example))
            examples["small1"].append((f"{label}_{number}", example))
            examples["small2"].append((f"{label}_{number}", example))
    return _prepare(omniglot.Omniglot, examples, data_dir, "omniglot", names={"label": names})


def domain(data_dir, name, classes=(0, 1, 2, 173, 174), per_class=3):
    examples = {"train": [], "test": []}
    for label in classes:
        for number in range(per_class):
            split = "test" if number == 0 else "train"
            examples[split].append((f"{label}_{number}", {"image": image_file(label + number), "label": label}))
    return _prepare(domainnet.Domainnet, examples, data_dir, "domainnet", config=name)


def record(payload):
    """A payload as TFRecords have it, between its length and checksums."""

    def checksum(content):
        crc = google_crc32c.value(content)
        return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    length = len(payload).to_bytes(8, "little")
    return length + checksum(length) + payload + checksum(payload)


def repair_checksums(shard):
    """Gives every record of a TFRecord file the checksums of what is there."""
    content, repaired = shard.read_bytes(), b""
    while content:
        end = 16 + int.from_bytes(content[:8], "little")
        repaired += record(content[12 : end - 4])
        content = content[end:]
    shard.write_bytes(repaired)


def as_array_records(version):
    """Turns the TFRecords in a version's folder into ArrayRecords, in place."""
    from array_record.python.array_record_module import ArrayRecordWriter

    for shard in version.glob("*.tfrecord-*"):
        writer = ArrayRecordWriter(str(shard).replace(".tfrecord-", ".array_record-"), "group_size:1")
        content = shard.read_bytes()
        while content:
            end = 16 + int.from_bytes(content[:8], "little")
            writer.write(content[12 : end - 4])
            content = content[end:]
        writer.close()
        shard.unlink()
    path = version / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fileFormat": "array_record"}))


def image_file(seed):
    return io.BytesIO(jpeg(seed))
