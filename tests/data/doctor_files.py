"""A small sound dataset with two splits, for tests that introduce a single defect."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
_BOXES = ([10, 8, 30, 24], [40, 20, 32, 40])


def picture(seed: int, size_wh: tuple[int, int] = (96, 64)) -> Image.Image:
    """Large patches of random colors: no two seeds look alike."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(size_wh, Image.Resampling.BICUBIC)


def clean() -> dict[str, dict[str, Any]]:
    """COCO documents of both splits: 3 and 2 images of 96x64 with a cat and a dog each."""
    splits: dict[str, dict[str, Any]] = {}
    for split, names in {"train": "abc", "val": "de"}.items():
        images = [
            {"id": 10 + number, "file_name": f"{name}.jpg", "width": 96, "height": 64}
            for number, name in enumerate(names)
        ]
        boxes = [(image["id"], row["id"], box) for image in images for row, box in zip(CATEGORIES, _BOXES, strict=True)]
        annotations = [
            {
                "id": number,
                "image_id": image,
                "category_id": row,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for number, (image, row, box) in enumerate(boxes, start=1)
        ]
        splits[split] = {"images": images, "annotations": annotations, "categories": [dict(row) for row in CATEGORIES]}
    return splits


def write(root: Path, splits: dict[str, dict[str, Any]] | None = None) -> Path:
    """Write the documents, and an image file for each image that they list with a name and a size."""
    for split, document in (splits or clean()).items():
        folder = root / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        for row in document["images"]:
            name = row.get("file_name")
            if isinstance(name, str) and not (folder / name).exists():
                picture(ord(name[0]), (96, 64)).save(folder / name)
        file = root / "annotations" / f"{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(document))
    return root


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}
