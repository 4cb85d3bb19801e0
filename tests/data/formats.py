"""The same small dataset written as COCO, YOLO and Pascal VOC."""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.coco_files import write_dataset

FORMATS = ("coco", "yolo", "voc")


def write_format(root: Path, kind: str, content: dict[str, Any], *, split: str = "val") -> Path:
    """Write images and annotations of a COCO document in the usual layout of a format; returns the dataset's folder."""
    source_images, _ = write_dataset(root / "source", content)
    images = {"coco": root / f"{split}2017", "yolo": root / "images" / split, "voc": root / "JPEGImages"}[kind]
    images.mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        shutil.move(source_images / image["file_name"], images / image["file_name"])
    shutil.rmtree(root / "source")
    objects = {image["id"]: [] for image in content["images"]}
    for row in content["annotations"]:
        objects[row["image_id"]].append(row)
    {"coco": _write_coco, "yolo": _write_yolo, "voc": _write_voc}[kind](root, content, objects, split)
    return root


def _names(content: dict[str, Any]) -> dict[int, str]:
    return {row["id"]: row["name"] for row in sorted(content["categories"], key=lambda row: row["id"])}


def _write_coco(root: Path, content: dict[str, Any], objects: dict[int, Any], split: str) -> None:
    (root / "annotations").mkdir()
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def _write_yolo(root: Path, content: dict[str, Any], objects: dict[int, Any], split: str) -> None:
    names = _names(content)
    labels = root / "labels" / split
    labels.mkdir(parents=True)
    for image in content["images"]:
        lines = []
        for row in objects[image["id"]]:
            x, y, w, h = map(float, row["bbox"])
            fractions = ((x + w / 2) / image["width"], (y + h / 2) / image["height"])
            fractions += (w / image["width"], h / image["height"])
            lines.append(" ".join(map(repr, (list(names).index(row["category_id"]), *fractions))))
        if lines:
            (labels / Path(image["file_name"]).with_suffix(".txt").name).write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text(f"path: .\n{split}: images/{split}\nnames: {json.dumps(list(names.values()))}\n")


def _write_voc(root: Path, content: dict[str, Any], objects: dict[int, Any], split: str) -> None:
    names = _names(content)
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for image in content["images"]:
        stem = Path(image["file_name"]).stem
        things = "".join(voc_object(names[row["category_id"]], row["bbox"]) for row in objects[image["id"]])
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{image['file_name']}</filename>{size}{things}</annotation>"
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    stems = [Path(image["file_name"]).stem for image in content["images"]]
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
    (root / "labels.txt").write_text("\n".join(names.values()) + "\n")


def voc_object(name: str, bbox: list[float], *, extra: str = "") -> str:
    """An object element; the first pixel of an image is number 1."""
    x, y, w, h = map(float, bbox)
    box = f"<ymax>{y + h!r}</ymax><xmin>{x + 1!r}</xmin><xmax>{x + w!r}</xmax><ymin>{y + 1!r}</ymin>"
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"
