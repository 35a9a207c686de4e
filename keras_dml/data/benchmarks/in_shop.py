"""In-Shop Clothes Retrieval (DeepFashion): photographs of 7,982 garments, with queries and a gallery."""

import pathlib

from keras_dml.data import folders, reading
from keras_dml.data.benchmark import Benchmark, Protocol
from keras_dml.data.errors import DataError
from keras_dml.data.loading import LoadOptions, assemble, register_benchmark
from keras_dml.data.split import Split

PROTOCOL = Protocol(
    train_classes=3997, train_images=25_882, test_classes=3985, test_images=14_218, gallery_images=12_612
)
LAYOUT = """\
  Eval/list_eval_partition.txt (or Anno/..., or in the folder itself)
  img/WOMEN/..., img/MEN/... (or Img/img/...), as the list names them
The archives img.zip and list_eval_partition.txt are handed out by the authors of DeepFashion
(https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html) on request; no checksum is known,
and TensorFlow Datasets does not have them."""
FOLDERS = ("", "In-shop Clothes Retrieval Benchmark", "In_shop", "inshop")
LISTS = ("Eval/list_eval_partition.txt", "Anno/list_eval_partition.txt", "list_eval_partition.txt")
FIELDS = ("image_name", "item_id", "evaluation_status")


@register_benchmark("inshop")
def load_inshop(options: LoadOptions) -> Benchmark:
    """3,997 garments for training (25,882 images); 14,218 queries against a gallery of 12,612 images of others."""
    root = folders.existing_folder(options.data_dir, "inshop", LAYOUT)
    listed = folders.first_existing(root, (f"{folder}/{name}".lstrip("/") for folder in FOLDERS for name in LISTS))
    if listed is None:
        raise DataError(f"No list_eval_partition.txt below {root}. The benchmark 'inshop' expects there:\n{LAYOUT}")
    base = listed.parent if listed.parent.name not in ("Eval", "Anno") else listed.parent.parent
    sides: dict[str, list[tuple[str, str]]] = {"train": [], "query": [], "gallery": []}
    seen: dict[str, int] = {}
    for line in reading.lines(listed):
        # A line with the number of images and one with the columns' names come first.
        if (line.number == 1 and line.text.isdecimal()) or (line.number <= 2 and line.text.split() == list(FIELDS)):
            continue
        name, item, side = line.fields(FIELDS)
        if side not in sides:
            raise line.fault("the status train, query or gallery")
        reading.once(seen, name, line, "image")
        sides[side].append((item, name))
    train_items = sorted({item for item, _ in sides["train"]})
    test_items = sorted({item for side in ("query", "gallery") for item, _ in sides[side]})
    return assemble(
        "inshop",
        options,
        PROTOCOL,
        _split(base, sides["train"], train_items),
        _split(base, sides["query"], test_items),
        _split(base, sides["gallery"], test_items),
    )


def _split(base: pathlib.Path, images: list[tuple[str, str]], items: list[str]) -> Split:
    number = {item: label for label, item in enumerate(items)}
    images = sorted(images)
    files = [folders.first_existing(base, (name, f"Img/{name}")) or base / name for _, name in images]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(files)} listed images are missing: {missing[0]}. Expected:\n{LAYOUT}")
    return folders.split_of_files(base, files, [number[item] for item, _ in images], items)
