"""Prints how many MiB an evaluation of N images adds to the process, at most: fake outputs, 300 queries, 80 classes.

python tests/hf/evaluate_many.py N
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from rtdetr.categories import Categories
from rtdetr.data import DetectionDataset
from rtdetr.data.annotations import Annotations
from rtdetr.data.dataset import Source
from rtdetr.hf.training import CocoMetric

BATCH_SIZE = 10


def dataset(num_images: int) -> DetectionDataset:
    """Seven objects an image, whose files are never opened."""
    rng = np.random.default_rng(0)
    count, categories = 7 * num_images, Categories.numbered(80)
    boxes = rng.uniform(20, 300, (count, 4))
    annotations = Annotations(
        image_ids=np.arange(num_images),
        file_names=np.array(["x.jpg"] * num_images),
        sizes_wh=np.full((num_images, 2), 640),
        starts=np.arange(0, count + 1, 7),
        boxes_xywh=boxes,
        labels=rng.integers(0, 80, count),
        areas=boxes[:, 2] * boxes[:, 3],
        iscrowd=np.zeros(count, dtype=bool),
        categories=categories,
    )
    return DetectionDataset.of(annotations, Source(Path("many.json"), Path(), categories))


def peak_mib(field: str = "VmHWM") -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def main() -> None:
    torch.set_num_threads(1)
    warm, data = CocoMetric(dataset(BATCH_SIZE)), dataset(int(sys.argv[1]))
    evaluate(warm)
    before = peak_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    evaluate(CocoMetric(data))
    print(f"{peak_mib() - before:.1f}")


def evaluate(metric: CocoMetric) -> None:
    for first in range(0, len(metric.dataset), BATCH_SIZE):
        outputs = SimpleNamespace(logits=torch.randn(BATCH_SIZE, 300, 80), pred_boxes=torch.rand(BATCH_SIZE, 300, 4))
        size = torch.tensor([640, 640])
        labels = [{"image_id": torch.tensor([first + i]), "orig_size": size} for i in range(BATCH_SIZE)]
        metric.add(outputs, labels)
    metric.compute()


if __name__ == "__main__":
    main()
