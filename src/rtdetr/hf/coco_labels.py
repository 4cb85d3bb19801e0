"""Convert the COCO annotations of one image to the labels that the RT-DETR loss takes.

In: {"image_id": int, "annotations": [{"bbox": [x, y, w, h] in pixels, "category_id": int from 0, "area", "iscrowd"}]}.
Out: the same tensors as from the transformers processor; see `Labels`.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rtdetr.errors import InputError

SizeHW = tuple[int, int]


class Labels(NamedTuple):
    """Labels of one image, with the names used in transformers.

    size: int64 (2,), height and width of the network input, including padding.
    image_id: int64 (1,).
    class_labels: int64 (n,), the unchanged category ids.
    boxes: float32 (n, 4), cxcywh in 0..1 of `size`, or xyxy in pixels of the resized image.
    area: float32 (n,), in pixels of the resized image.
    iscrowd: int64 (n,), all 0 because crowds are dropped.
    orig_size: int64 (2,), height and width of the upright image.
    """

    size: Tensor
    image_id: Tensor
    class_labels: Tensor
    boxes: Tensor
    area: Tensor
    iscrowd: Tensor
    orig_size: Tensor


def make_labels(annotation: Any, *, image_hw: SizeHW, resized_hw: SizeHW, padded_hw: SizeHW, normalize: bool) -> Labels:
    """Convert the annotations of one image: boxes are clipped to the image, crowds and boxes without area are dropped.

    Args:
        annotation: see the top of this file; "area" defaults to the area of the box.
        image_hw: height and width of the image that the boxes refer to.
        resized_hw: the same after resizing.
        padded_hw: the same after padding at the bottom and the right.
        normalize: return boxes as cxcywh in 0..1 of the padded image; otherwise as xyxy in pixels.

    Raises:
        InputError: the annotations have another form.
    """
    image_id, objects = _checked(annotation)
    kept = [entry for entry in objects if not entry.is_crowd]
    boxes = torch.tensor([entry.box_xywh for entry in kept], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    height, width = image_hw
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    area = torch.tensor([entry.area for entry in kept], dtype=torch.float32)
    classes = torch.tensor([entry.category_id for entry in kept], dtype=torch.int64)
    valid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    boxes, area, classes = boxes[valid], area[valid], classes[valid]

    scale_h, scale_w = resized_hw[0] / height, resized_hw[1] / width
    boxes *= torch.tensor([scale_w, scale_h, scale_w, scale_h])
    if normalize:
        centers, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        boxes = torch.cat([centers, sizes], dim=1) / torch.tensor([padded_hw[1], padded_hw[0]] * 2)
    return Labels(
        size=torch.tensor(padded_hw),
        image_id=torch.tensor([image_id]),
        class_labels=classes,
        boxes=boxes,
        area=area * (scale_h * scale_w),
        iscrowd=torch.zeros(len(classes), dtype=torch.int64),
        orig_size=torch.tensor(image_hw),
    )


class _Object(NamedTuple):
    """One validated annotation."""

    box_xywh: list[float]
    category_id: int
    area: float
    is_crowd: bool


def _checked(annotation: Any) -> tuple[int, list[_Object]]:
    """Return the id of the image and its objects."""
    if not isinstance(annotation, Mapping) or "image_id" not in annotation or "annotations" not in annotation:
        found = sorted(map(str, annotation)) if isinstance(annotation, Mapping) else type(annotation).__name__
        raise InputError(f"expected annotations {{'image_id': int, 'annotations': [...]}} per image, got {found}")
    try:
        image_id = _int64(annotation["image_id"])
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"expected a number as image_id, got {annotation['image_id']!r}") from None
    objects = annotation["annotations"]
    if not isinstance(objects, list | tuple):
        raise InputError(f"image {image_id}: expected a list of annotations, got {type(objects).__name__}")
    return image_id, [_object(entry, index, image_id) for index, entry in enumerate(objects)]


def _int64(value: Any) -> int:
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise OverflowError
    return number


def _object(entry: Any, index: int, image_id: int) -> _Object:
    where = f"annotation {index} of image {image_id}"
    if not isinstance(entry, Mapping) or "bbox" not in entry or "category_id" not in entry:
        raise InputError(f"{where}: expected an object with 'bbox' and 'category_id', got {entry!r}")
    try:
        box = [float(value) for value in entry["bbox"]]
        category, area = _int64(entry["category_id"]), float(entry.get("area", box[2] * box[3]))
    except (TypeError, ValueError, IndexError, OverflowError):
        raise InputError(f"{where}: expected numbers as bbox, category_id and area, got {entry!r}") from None
    if len(box) != 4 or not all(math.isfinite(value) for value in box) or category != entry["category_id"]:
        raise InputError(
            f"{where}: expected a finite bbox (x, y, width, height) and an integer category_id, got {entry!r}"
        )
    return _Object(box, category, area, bool(entry.get("iscrowd", 0)))
