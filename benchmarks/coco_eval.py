"""Time of COCO average precision with hotcoco, which this library uses, and pycocotools, on random detections.

    python benchmarks/coco_eval.py [--images 500]

Both start from annotations and detections in memory; reading JSON is not timed. Rounds are interleaved. The script
prints medians and the largest difference of the twelve metrics.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rtdetr.categories import COCO80
from rtdetr.data import DetectionDataset
from rtdetr.evaluation import CocoEvaluator

DETECTIONS_AN_IMAGE = 300


def write_dataset(folder: Path, num_images: int, rng: np.random.Generator) -> DetectionDataset:
    """Return a COCO-like dataset with 7 objects per image and empty image files."""
    images, annotations = [], []
    for image_id in range(num_images):
        name = f"{image_id}.jpg"
        (folder / name).touch()
        images.append({"id": image_id, "file_name": name, "width": 640, "height": 480})
        for _ in range(rng.poisson(7)):
            w, h = np.exp(rng.uniform(np.log(8), np.log(400), 2)).tolist()
            x, y = rng.uniform(0, 640 - w), rng.uniform(0, 480 - h)
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(rng.choice(COCO80.ids))}
            annotations.append({**row, "bbox": [x, y, w, h], "area": w * h, "iscrowd": int(rng.random() < 0.01)})
    file = folder / "data.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": COCO80.to_json()}))
    return DetectionDataset(folder, file)


def detect(dataset: DetectionDataset, rng: np.random.Generator) -> CocoEvaluator:
    """Return 300 detections per image, as from the models: shifted ground truth and random boxes."""
    evaluator = CocoEvaluator(dataset)
    for index, image_id in enumerate(dataset.image_ids.tolist()):
        target = dataset.target(index)
        found = len(target["labels"])
        corner = rng.uniform(0, 500, (DETECTIONS_AN_IMAGE - found, 2))
        anywhere = np.concatenate([corner, corner + rng.uniform(5, 100, corner.shape)], axis=1)
        boxes = np.concatenate([target["boxes_xyxy"] + rng.normal(0, 6, (found, 4)), anywhere])
        labels = np.concatenate([target["labels"], rng.integers(0, 80, len(corner))])
        scores = np.concatenate([rng.uniform(0.2, 1, found), rng.uniform(0, 0.6, len(corner))])
        evaluator.add(image_id, boxes_xyxy=boxes, scores=scores, labels=labels)
    return evaluator


def by_pycocotools(truth: COCO, rows: Any) -> np.ndarray:
    """Return the twelve COCO metrics."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.asarray(evaluation.stats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Path(folder), options.images, rng)
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(dataset.annotations_file))
    evaluator = detect(dataset, rng)
    rows = list(evaluator.rows())
    times: dict[str, list[float]] = {"hotcoco": [], "pycocotools": []}
    differences = []
    for _ in range(options.rounds):
        started = time.perf_counter()
        ours = np.array(evaluator.summarize().numbers)
        middle = time.perf_counter()
        theirs = by_pycocotools(truth, rows)
        times["hotcoco"].append(middle - started)
        times["pycocotools"].append(time.perf_counter() - middle)
        differences.append(np.abs(ours - theirs).max())
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{options.images} images, {len(rows)} detections, median of {options.rounds} rounds")
    for name, seconds in medians.items():
        print(f"{name:<12}{seconds:8.3f} s")
    print(f"ratio       {medians['pycocotools'] / medians['hotcoco']:8.1f}")
    print(f"largest difference of the twelve metrics {max(differences):.1e}")


if __name__ == "__main__":
    main()
