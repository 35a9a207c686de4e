"""Images per second of the training input pipeline, beside Pillow's loaders on the same cores.

    python benchmarks/input_pipeline.py                   # photograph-like JPEGs made here, 500 x 375
    python benchmarks/input_pipeline.py FOLDER            # JPEGs below FOLDER, in any arrangement

Every loader reads the same files in its own random order and makes float32 batches in [0, 255] of random resized crops
(area 8 to 100 %, ratio 3/4 to 4/3) of 224 x 224, bilinear with an antialiasing filter, half of them mirrored. The row
"antialias=False" alone does less: it filters only what shrinks by 2 and more. Peers: Pillow with a pool of threads,
Pillow with worker processes (torch's DataLoader), the same by Grain with threads and with processes, torchvision's
own transform; each where it is installed. Each has as many
workers as there are cores. Loaders take turns within every round, each drains what it has prefetched before the clock
starts, and the table shows the median and the best round, and the median as a multiple of that of the fastest peer. On
a busy machine processor time per image is the steadier number.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

SIZE = 224
OURS = "keras_dml"
CORES = len(os.sched_getaffinity(0))
CLASSES = 20
"""Classes that the images are dealt out to, for this package's batches."""
PREFETCH = 2
"""Batches that each of torch's workers makes ahead."""
WARM_UP = PREFETCH * CORES + 6
"""Batches before the clock starts: more than any loader has made ahead."""


def make_photographs(folder, count, size=(500, 375), seed=0):
    """JPEGs with detail at every scale, its strength falling with frequency as in photographs."""
    from PIL import Image

    random = np.random.default_rng(seed)
    width, height = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / width
    paths = []
    for number in range(count):
        spectrum = np.fft.rfft2(random.normal(size=(3, height, width))) / frequency**1.2
        pixels = np.fft.irfft2(spectrum, (height, width)).transpose(1, 2, 0)
        pixels = 128 + 48 * (pixels - pixels.mean()) / pixels.std()
        path = pathlib.Path(folder) / f"{number}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(path)
    return paths


def jpegs(folder):
    """The JPEGs below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg") and path.is_file())


def pillow_crop(path, random):
    """One augmented image as torchvision makes it from a Pillow image, `(224, 224, 3)` uint8."""
    from PIL import Image

    with Image.open(path) as file:
        image = file.convert("RGB")
    width, height = image.size
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        w = h = min(width, height)
    left, top = random.integers(0, width - w + 1), random.integers(0, height - h + 1)
    image = image.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), Image.BILINEAR)
    if random.random() < 0.5:
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    return np.asarray(image)


class PillowFiles:
    """A map-style data set for torch's DataLoader."""

    def __init__(self, paths, transform=None):
        self.paths = paths
        self.transform = transform

    def __len__(self):
        return 10**9

    def __getitem__(self, number):
        random = np.random.default_rng(number)
        path = self.paths[random.integers(len(self.paths))]
        if self.transform is None:
            return pillow_crop(path, random).astype(np.float32)
        from PIL import Image

        with Image.open(path) as file:
            return self.transform(file.convert("RGB"))


def to_float(image):
    """A tensor's values as they are, as float32."""
    return image.float()


def pillow_threads(paths, batch) -> Iterator:
    """Batches by a pool of threads, the next one being made while one is used."""
    from concurrent.futures import ThreadPoolExecutor

    def fill(images, place, number):
        random = np.random.default_rng(number)
        images[place] = pillow_crop(paths[random.integers(len(paths))], random)

    with ThreadPoolExecutor(CORES) as pool:
        number, pending = 0, []
        while True:
            while len(pending) < 2:
                images = np.empty((batch, SIZE, SIZE, 3), np.float32)
                pending.append((images, [pool.submit(fill, images, k, number + k) for k in range(batch)]))
                number += batch
            images, filled = pending.pop(0)
            for image in filled:
                image.result()
            yield images


def pillow_processes(paths, batch, transform=None) -> Iterator:
    """Batches by torch's DataLoader."""
    from torch.utils.data import DataLoader

    return iter(
        DataLoader(
            PillowFiles(paths, transform),
            batch,
            num_workers=CORES,
            multiprocessing_context="spawn",
            prefetch_factor=PREFETCH,
        )
    )


def pillow_grain(paths, batch, processes) -> Iterator:
    """Batches by Grain, with as many threads, or worker processes, as there are cores."""
    import grain

    images = grain.MapDataset.range(10**9).map(PillowFiles(paths).__getitem__)
    if not processes:
        return iter(images.to_iter_dataset(grain.ReadOptions(CORES, CORES * batch)).batch(batch))
    batches = images.to_iter_dataset(grain.ReadOptions(1, batch)).batch(batch)
    return iter(batches.mp_prefetch(grain.MultiprocessingOptions(CORES, PREFETCH)))


def own_batches(split, batch, path="dataset", **options) -> Iterator:
    """This package: `PKBatches` with `RandomResizedCrop`, by one of its paths (TensorFlow's ops, or NumPy)."""
    from keras_dml.data import ImagePreprocessing, PKBatches, RandomResizedCrop

    augment = RandomResizedCrop(SIZE, **options)
    return iter(getattr(PKBatches(split, ImagePreprocessing(SIZE), batch // 2, 2, augment=augment), path)())


def measure(start: Callable[[], Iterator], batch: int, steps: int) -> tuple[float, float]:
    """Images per second, and milliseconds of this process's processor time per image, of a loader that is started,
    drained and stopped again."""
    batches = start()
    for _ in range(WARM_UP):
        next(batches)
    begin, work = time.perf_counter(), time.process_time()
    for _ in range(steps):
        next(batches)
    seconds, work = time.perf_counter() - begin, time.process_time() - work
    del batches
    time.sleep(0.3)
    return steps * batch / seconds, 1000 * work / (steps * batch)


def table(results, title):
    """A Markdown table of medians and best rounds. Work in other processes is not in the processor time."""
    lines = [
        f"| {title} | median images/s | best | of the fastest peer | processor ms/image, least |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    medians = {name: statistics.median(rate for rate, _ in measured) for name, measured in results.items()}
    peer = max(median for name, median in medians.items() if not name.startswith(OURS))
    for name, measured in results.items():
        median = medians[name]
        best, work = max(rate for rate, _ in measured), min(work for _, work in measured)
        cells = [name, f"{median:,.0f}", f"{best:,.0f}", f"{median / peer:.2f}"]
        lines.append(
            "| "
            + " | ".join([*cells, "elsewhere" if "DataLoader" in name or "processes" in name else f"{work:.3f}"])
            + " |"
        )
    return "\n".join(lines)


def rounds(loaders, batch, steps, repeats):
    """Rates of each loader, the loaders taking turns."""
    results = {name: [] for name in loaders}
    for _ in range(repeats):
        for name, start in loaders.items():
            results[name].append(measure(start, batch, steps))
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=pathlib.Path, help="JPEGs to read; made here by default")
    parser.add_argument("--batch", type=int, default=112)
    parser.add_argument("--steps", type=int, default=15, help="batches that are timed in a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    options = parser.parse_args()
    if options.batch < 2 or options.batch % 2:
        parser.error(f"--batch must be even, for two images of each class. Received: {options.batch}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import PIL
    import tensorflow as tf

    from keras_dml.data import Split

    with tempfile.TemporaryDirectory() as made:
        paths = make_photographs(made, 600) if options.folder is None else jpegs(options.folder)
        if len(paths) < CLASSES:
            sys.exit(f"{CLASSES} JPEGs at least are needed. Below {options.folder}: {len(paths)}")
        # Speed does not depend on which images are of one class; a folder need not have classes.
        split = Split(paths, np.arange(len(paths)) % CLASSES, [str(label) for label in range(CLASSES)])
        loaders = {
            "Pillow, threads": lambda: pillow_threads(paths, options.batch),
            OURS: lambda: own_batches(split, options.batch),
            f"{OURS}, antialias=False": lambda: own_batches(split, options.batch, antialias=False),
            f"{OURS}, PyDataset": lambda: own_batches(split, options.batch, "pydataset"),
        }
        versions = [f"TensorFlow {tf.__version__}", f"Pillow {PIL.__version__}"]
        if importlib.util.find_spec("torch") is None:
            print("torch is not installed: no worker processes are measured")
        else:
            versions.append(f"torch {importlib.metadata.version('torch')}")
            # Worker processes take seconds to start, so they live from round to round.
            loaders["Pillow, torch DataLoader"] = functools.cache(lambda: pillow_processes(paths, options.batch))
        if importlib.util.find_spec("grain") is None:
            print("grain is not installed: it is not measured")
        else:
            versions.append(f"grain {importlib.metadata.version('grain')}")
            loaders["Pillow, Grain threads"] = lambda: pillow_grain(paths, options.batch, False)
            loaders["Pillow, Grain processes"] = functools.cache(lambda: pillow_grain(paths, options.batch, True))
        try:
            from torchvision import transforms

            versions.append(f"torchvision {importlib.metadata.version('torchvision')}")
            steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
            # Not ToTensor, which divides by 255 as well.
            transform = transforms.Compose([*steps, transforms.PILToTensor(), to_float])
            loaders["torchvision, torch DataLoader"] = functools.cache(
                lambda: pillow_processes(paths, options.batch, transform)
            )
        except (ImportError, RuntimeError) as error:
            print(f"torchvision cannot be used here: {str(error).splitlines()[0]}")
        kibibytes = np.mean([path.stat().st_size for path in paths]) / 1024
        print(
            f"\n{len(paths)} JPEGs, mean {kibibytes:.0f} KiB; {CORES} cores; {', '.join(versions)}; "
            f"{options.repeats} rounds of {options.steps} batches of {options.batch}\n"
        )
        print(table(rounds(loaders, options.batch, options.steps, options.repeats), f"decode + augment at {SIZE}"))


if __name__ == "__main__":
    main()
