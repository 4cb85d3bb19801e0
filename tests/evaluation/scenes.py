"""Small datasets and detections for tests; images are empty files, because pixels are not read."""

import json

import numpy as np

from rtdetr.data import DetectionDataset
from rtdetr.evaluation import CocoEvaluator, EvaluationReport

NAMES = ("cat", "dog", "bird")
SQUARE = (0, 0, 100, 100)  # overlaps itself moved to the right by 25 with IoU 0.6, by 50 with IoU 1/3
APART = (300, 300, 100, 100)


def shifted(box_xywh, x):
    """The box moved to the right."""
    return (box_xywh[0] + x, *box_xywh[1:])


def scene_dataset(folder, images, *, names=NAMES):
    """A dataset of 640x480 images; each image is a list of objects (class name, box xywh) or (..., "crowd")."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"images": [], "annotations": [], "categories": [{"id": i + 1, "name": n} for i, n in enumerate(names)]}
    for image_id, objects in enumerate(images, start=1):
        (folder / f"{image_id}.jpg").touch()
        content["images"].append({"id": image_id, "file_name": f"{image_id}.jpg", "width": 640, "height": 480})
        for name, box, *crowd in objects:
            row = {"id": len(content["annotations"]) + 1, "image_id": image_id, "bbox": list(box)}
            row |= {"category_id": names.index(name) + 1, "area": box[2] * box[3], "iscrowd": len(crowd)}
            content["annotations"].append(row)
    file = folder / "data.json"
    file.write_text(json.dumps(content))
    return DetectionDataset(folder, file)


def add(evaluator, image_id, found, *, names=NAMES):
    """Add detections (class name, box xywh, score) of one image."""
    boxes = np.array([box for _, box, _ in found], dtype=float).reshape(-1, 4)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    labels = np.array([names.index(name) for name, _, _ in found], dtype=np.int64)
    evaluator.add(image_id, boxes_xyxy=corners, scores=np.array([score for _, _, score in found]), labels=labels)


def scene_report(folder, images, found, *, names=NAMES):
    """The report on objects and detections, both by image."""
    evaluator = CocoEvaluator(scene_dataset(folder, images, names=names))
    for image_id, one in enumerate(found, start=1):
        add(evaluator, image_id, one, names=names)
    return EvaluationReport.of(evaluator)


def random_scene(folder, *, seed, num_images=40, crowd=0.0, num_classes=3):
    """A report on random objects and guesses that hit some of them; every fifth image has no objects."""
    rng = np.random.default_rng(seed)
    names = tuple(f"class {i}" for i in range(num_classes))
    images, found = [], []
    for index in range(num_images):
        count = 0 if index % 5 == 0 else rng.integers(1, 12)
        sizes = np.exp(rng.uniform(np.log(8), np.log(250), (count, 2)))
        boxes = np.concatenate([rng.uniform(0, 1, (count, 2)) * ((640, 480) - sizes), sizes], axis=1)
        labels = rng.integers(0, num_classes, count)
        marks = [("crowd",) if flag else () for flag in rng.random(count) < crowd]
        objects = zip(labels.tolist(), boxes.tolist(), marks, strict=True)
        images.append([(names[label], box, *mark) for label, box, mark in objects])
        guesses = np.repeat(boxes, 3, axis=0)
        guesses = guesses + rng.normal(0, 0.15, guesses.shape) * rng.uniform(0, 1, (len(guesses), 1)) * np.tile(
            guesses[:, 2:], 2
        )
        guesses[:, 2:] = np.maximum(guesses[:, 2:], 1)
        anywhere = np.concatenate([rng.uniform(0, 400, (4, 2)), rng.uniform(5, 200, (4, 2))], axis=1)
        guesses = np.concatenate([guesses, anywhere])
        chosen = np.concatenate([np.repeat(labels, 3), rng.integers(0, num_classes, 4)])
        kept = np.append(np.repeat(rng.random(count) < 0.85, 3), [True] * 4)  # nothing is near the other objects
        guesses, chosen = guesses[kept], chosen[kept]
        chosen = np.where(rng.random(len(chosen)) < 0.7, chosen, rng.integers(0, num_classes, len(chosen)))
        scores = rng.uniform(0, 1, len(chosen))
        rows = zip(chosen.tolist(), guesses.tolist(), scores.tolist(), strict=True)
        found.append([(names[label], box, score) for label, box, score in rows])
    return scene_report(folder, images, found, names=names)
