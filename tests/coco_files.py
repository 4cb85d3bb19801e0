"""Small COCO-format datasets on disk for tests."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rtdetr.data.annotations import Annotations, OnBad
from rtdetr.data.coco import read_coco
from rtdetr.data.records import to_annotations

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 90, "name": "bird"}]


def annotation(number: int, image_id: int, category_id: int, bbox: Sequence[float], **more: Any) -> dict[str, Any]:
    area = bbox[2] * bbox[3]
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": list(bbox), "area": area, **more}


def document() -> dict[str, Any]:
    """Three images in disorder: 20 with three objects (one a crowd), 10 without any, 30 with one at the border."""
    return {
        "images": [
            {"id": 20, "file_name": "b.jpg", "width": 60, "height": 40},
            {"id": 10, "file_name": "a.jpg", "width": 50, "height": 50},
            {"id": 30, "file_name": "c.jpg", "width": 32, "height": 48},
        ],
        "annotations": [
            annotation(1, 30, 90, [20, 30, 20, 30], iscrowd=0),
            annotation(2, 20, 3, [1.5, 2, 10, 20], iscrowd=0),
            annotation(3, 20, 7, [30, 10, 1, 1], iscrowd=0),
            annotation(4, 20, 3, [0, 0, 60, 40], iscrowd=1),
        ],
        "categories": copy.deepcopy(CATEGORIES),
    }


def exchanged(content: dict[str, Any]) -> dict[str, Any]:
    """What an export that gives the classes other numbers makes of a document."""
    other = {3: 7, 7: 3, 90: 90}
    content = copy.deepcopy(content)
    for row in content["annotations"]:
        row["category_id"] = other[row["category_id"]]
    names = {row["id"]: row["name"] for row in content["categories"]}
    content["categories"] = [{"id": number, "name": names[other[number]]} for number in names]
    return content


def renamed(content: dict[str, Any], **names: str) -> dict[str, Any]:
    """A document whose categories have other names."""
    content = copy.deepcopy(content)
    for row in content["categories"]:
        row["name"] = names.get(row["name"], row["name"])
    return content


def write_dataset(folder: Path, content: dict[str, Any] | None = None) -> tuple[Path, Path]:
    """Write images of noise and the annotation file; returns (images_dir, annotations_file)."""
    content = document() if content is None else content
    images_dir = folder / "images"
    images_dir.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for image in content["images"]:
        pixels = rng.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images_dir / image["file_name"])
    annotations_file = folder / "data.json"
    annotations_file.write_text(json.dumps(content))
    return images_dir, annotations_file


def many_images(count: int, *, seed: int = 0) -> dict[str, Any]:
    """A document of `count` images of 32 to 96 pixels a side with 0 to 5 objects each."""
    rng = np.random.default_rng(seed)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": copy.deepcopy(CATEGORIES)}
    for image_id in range(1, count + 1):
        width, height = (int(side) for side in rng.integers(32, 97, 2))
        content["images"].append({"id": image_id, "file_name": f"{image_id}.png", "width": width, "height": height})
        for _ in range(rng.integers(0, 6)):
            x, y = rng.uniform(0, 0.6, 2) * [width, height]
            w, h = rng.uniform(0.1, 0.4, 2) * [width, height]
            number = len(content["annotations"]) + 1
            content["annotations"].append(annotation(number, image_id, int(rng.choice([3, 7, 90])), [x, y, w, h]))
    return content


def read_annotations(
    file: Path, *, images_dir: Path | None = None, on_bad_box: str = "error", on_bad_image: str = "error"
) -> Annotations:
    """A COCO file as training reads it."""
    return to_annotations(read_coco(file, images_dir or file.parent), OnBad(on_bad_box, on_bad_image))
