"""Time to open a million annotations, and memory of the workers that read them over many epochs.

    python benchmarks/annotation_memory.py [--images 120000] [--annotations 1000000] [--epochs 20] [--workers 2]

The script writes a COCO file to a temporary folder, opens it without and with the cache, each in a new process, and
then runs the training loader over all images for several epochs. Instead of decoding files it uses one 32x32 image.

After some batches and after each epoch it prints the memory of the main process and its workers: RSS, in which a shared
page counts once per process, so it does not change when a worker gets its own copy; and "in use", in which each data
page counts once (proportional anonymous and shared memory of smaps), so it grows with every copy and excludes other
programs. `--dicts` stores one Python dict per box, for comparison. Linux only.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rtdetr.config import Recipe
from rtdetr.data import DetectionDataset, ImageTarget, TrainLoader, open_dataset

SIDE = 32
FIRST_BATCHES = 50  # until every worker has loaded a batch
LINKS = 30_000  # hard links per file that any file system allows
OPEN = "import sys, rtdetr.data, time; t = time.perf_counter(); rtdetr.data.open_dataset(sys.argv[1], split='train'); "
OPEN += "print(time.perf_counter() - t)"


class OneImage(DetectionDataset):
    """A dataset with identical images that are not read from files."""

    def load_array(self, index: int, *, num_channels: int = 3, reduction: int = 1) -> tuple[np.ndarray, ImageTarget]:
        return np.zeros((SIDE, SIDE, num_channels), dtype=np.uint8), self.target(index)


class Dicts(OneImage):
    """The same with Python objects, as many datasets store annotations."""

    rows: list[list[dict[str, Any]]]

    def target(self, index: int) -> ImageTarget:
        rows = self.rows[index]
        boxes = np.array([row["box"] for row in rows], dtype=np.float32).reshape(-1, 4)
        labels = np.array([row["label"] for row in rows], dtype=np.int64)
        return ImageTarget(
            boxes_xyxy=boxes,
            labels=labels,
            area=np.zeros(len(rows)),
            iscrowd=np.zeros(len(rows), dtype=bool),
            image_id=index,
            size_wh=(SIDE, SIDE),
        )


def as_dicts(dataset: DetectionDataset) -> list[list[dict[str, Any]]]:
    """Return one dict per box, in one list per image."""
    targets = (dataset.target(index) for index in range(len(dataset)))
    pairs = ((target["boxes_xyxy"].tolist(), target["labels"].tolist()) for target in targets)
    return [[{"box": b, "label": k} for b, k in zip(boxes, labels, strict=True)] for boxes, labels in pairs]


def write_index(folder: Path, num_images: int, num_annotations: int) -> None:
    """Write a COCO file with 80 classes, and one hard link to a small image per image."""
    rng = np.random.default_rng(0)
    images = folder / "images"
    images.mkdir(parents=True)
    names = [f"{number:012d}.png" for number in range(1, num_images + 1)]
    for start in range(0, num_images, LINKS):
        file = images / names[start]
        Image.new("RGB", (SIDE, SIDE)).save(file)
        for name in names[start + 1 : start + LINKS]:
            os.link(file, images / name)
    corners = rng.uniform(0, SIDE / 2, (num_annotations, 2)).round(2)
    sides = rng.uniform(2, SIDE / 2, (num_annotations, 2)).round(2)
    boxes = np.concatenate([corners, sides], axis=1).tolist()
    image_ids = rng.integers(1, num_images + 1, num_annotations).tolist()
    labels = rng.integers(1, 81, num_annotations).tolist()
    rows = zip(image_ids, labels, boxes, strict=True)
    content = {
        "images": [{"id": i, "file_name": name, "width": SIDE, "height": SIDE} for i, name in enumerate(names, 1)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (image, label, box) in enumerate(rows, 1)
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 81)],
    }
    (folder / "train.json").write_text(json.dumps(content))


def seconds_to_open(file: Path) -> float:
    """Return the time of `open_dataset` in a new process, excluding imports."""
    result = subprocess.run([sys.executable, "-c", OPEN, str(file)], check=True, text=True, capture_output=True)
    return float(result.stdout)


def memory_mb() -> tuple[float, float]:
    """Return the RSS of this process and its workers, and the data pages they use, each counted once, in MB."""
    totals = dict.fromkeys(("Rss", "Pss_Anon", "Pss_Shmem"), 0)
    for process in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in totals:
                totals[name] += int(value.split()[0])
    return totals["Rss"] / 1024, (totals["Pss_Anon"] + totals["Pss_Shmem"]) / 1024


def run_epochs(dataset: DetectionDataset, epochs: int, workers: int) -> list[tuple[float, float]]:
    """Return the memory after the workers have started, and after each epoch of the training loader."""
    recipe = Recipe(
        batch_size=64, train_size_hw=(SIDE, SIDE), multiscale_sizes=(), augmentation_stop_epoch=0, epochs=epochs
    )
    loader = TrainLoader(dataset, recipe, num_workers=workers)
    measured = []
    for epoch in range(epochs):
        start = time.perf_counter()
        loader.set_epoch(epoch)
        for number, _ in enumerate(loader, 1):
            if epoch == 0 and number == min(FIRST_BATCHES, len(loader)):
                measured.append(memory_mb())
                print(f"start      RSS {measured[0][0]:8.1f} MB  in use {measured[0][1]:8.1f} MB", flush=True)
        measured.append(memory_mb())
        seconds = time.perf_counter() - start
        rss, used = measured[-1]
        print(f"epoch {epoch + 1:3}  RSS {rss:8.1f} MB  in use {used:8.1f} MB  {seconds:5.1f} s", flush=True)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=120_000)
    parser.add_argument("--annotations", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dicts", action="store_true", help="store one dict per box, for comparison")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RTDETR_CACHE"] = str(Path(folder) / "cache")
        file = Path(folder) / "set" / "train.json"
        arguments = (file.parent, options.images, options.annotations)
        writer = multiprocessing.get_context("spawn").Process(target=write_index, args=arguments)
        writer.start()  # a separate process, so its memory is not measured
        writer.join()
        print(
            f"{options.images} images, {options.annotations} annotations, {file.stat().st_size / 2**20:.0f} MB of JSON"
        )
        print(f"opened without cache in {seconds_to_open(file):.2f} s")
        times = sorted(seconds_to_open(file) for _ in range(5))
        size = sum(index.stat().st_size for index in (Path(folder) / "cache" / "datasets").iterdir())
        print(f"opened from the cache in {times[2]:.2f} s (median of 5), {size / 2**20:.0f} MB")
        opened = open_dataset(file, split="train")
        kind = Dicts if options.dicts else OneImage
        dataset = kind.of(opened.annotations, *opened.sources)
        if isinstance(dataset, Dicts):
            dataset.rows = as_dicts(opened)
        measured = run_epochs(dataset, options.epochs, options.workers)
    first, last = measured[0], measured[-1]
    largest = [max(column) for column in zip(*measured, strict=True)]
    for i, name in enumerate(("RSS", "in use")):
        growth, peak = (value[i] / first[i] - 1 for value in (last, largest))
        print(f"{name} of main and {options.workers} workers, start to end: {growth:+.1%}, peak {peak:+.1%}")


if __name__ == "__main__":
    main()
