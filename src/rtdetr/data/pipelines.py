"""User-defined augmentation: a torchvision v2 pipeline, an albumentations `Compose`, or a similar function.

Its random generators are seeded per sample, so a batch still depends only on seed, epoch and position. The result is
resized and its boxes are clipped, as after the built-in augmentation.
"""

import contextlib
import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from rtdetr.config import SizeHW
from rtdetr.data.transforms import Objects, Sample, to_target
from rtdetr.errors import ConfigError, DatasetError
from rtdetr.images.arrays import FLOAT_MARGIN
from rtdetr.torch_resize import resize_with_torch
from rtdetr.wording import counted

# torchvision style: (image, {"boxes": BoundingBoxes, "labels": int64}) -> the same; albumentations is detected
Pipeline = Callable[..., Any]
_ROUNDING = 0.01  # pixels by which a corner may be on the wrong side of the other one
_Objects = tuple[np.ndarray, np.ndarray, np.ndarray]  # pixels (h, w, c), boxes xyxy in pixels, labels


def check_pipeline(pipeline: object) -> None:
    """Check that a pipeline can be used.

    Raises:
        ConfigError: it is not callable, or is an albumentations pipeline that would not transform the boxes.
    """
    if not callable(pipeline):
        raise ConfigError(
            "transforms: expected a torchvision v2 pipeline, an albumentations Compose or a function of (image, "
            f"target), got {type(pipeline).__name__}"
        )
    if _is_albumentations(pipeline) and "bboxes" not in pipeline.processors:
        raise ConfigError(
            "transforms: this albumentations pipeline would not transform the boxes; give it "
            "bbox_params=albumentations.BboxParams('pascal_voc', label_fields=['labels'])"
        )


def apply_pipeline(
    pipeline: Pipeline,
    original: np.ndarray,
    objects: Objects,
    *,
    num_classes: int,
    size_hw: SizeHW,
    rng: np.random.Generator,
) -> Sample:
    """Turn one image into a training sample with a user's pipeline.

    Args:
        pipeline: a pipeline that passed `check_pipeline`.
        original: the image, uint8 (h, w, c).
        objects: its size and training objects.
        num_classes: number of classes of the dataset; labels are smaller.
        size_hw: size of the result, to which the pipeline's image is resized.
        rng: source of the pipeline's random seed.

    Raises:
        DatasetError: the pipeline failed, or did not return an image with the same channels and a valid box and label
            per object.
    """
    pixels, boxes, labels = original, objects.boxes_xyxy.astype(np.float32), objects.labels.astype(np.int64)
    call = _albumentations if _is_albumentations(pipeline) else _torchvision
    try:
        with _seeded(pipeline, int(rng.integers(2**32))):
            pixels, boxes, labels = call(pipeline, pixels, boxes, labels)
    except DatasetError:
        raise
    except Exception as error:  # a user's code can raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())
        raise DatasetError(
            f"transforms failed with {type(error).__name__}: {text} ({frame.filename}, line {frame.lineno})"
        ) from error
    if pixels.shape[2] != original.shape[2]:
        raise DatasetError(
            f"transforms returned an image with {counted(pixels.shape[2], 'channel')}; expected {original.shape[2]}, "
            "the number of the model. Remove transforms that change it, or make them keep it: "
            "v2.Grayscale(num_output_channels=3)"
        )
    _check_objects(boxes, labels, num_classes=num_classes)
    target = to_target(boxes, labels, plane_wh=np.array(pixels.shape[1::-1]), size_hw=size_hw)
    return Sample(resize_with_torch(pixels, size_hw), target)


def _check_objects(boxes: np.ndarray, labels: np.ndarray, *, num_classes: int) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.ndim != 1:
        raise DatasetError(
            f"transforms returned boxes of shape {boxes.shape} and labels of shape {labels.shape}; expected (n, 4) and "
            "(n,)"
        )
    if len(boxes) != len(labels):
        raise DatasetError(
            f"transforms returned {counted(len(boxes), 'box')} and {counted(len(labels), 'label')}; expected one "
            "label per box. After transforms that remove boxes, add torchvision's v2.SanitizeBoundingBoxes or remove "
            "the labels too"
        )
    wrong = ~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < boxes[:, :2] - _ROUNDING).any(axis=1)
    if wrong.any():
        corners = ", ".join(f"{value:g}" for value in boxes[wrong][0])
        raise DatasetError(
            f"transforms returned the box ({corners}); expected finite x1, y1, x2, y2 with x1 <= x2 and y1 <= y2"
        )
    is_label = np.isin(labels, np.arange(num_classes))
    if not is_label.all():
        raise DatasetError(
            f"transforms returned the label {labels[~is_label][0]}; expected whole numbers from 0 to {num_classes - 1}"
        )


@contextlib.contextmanager
def _seeded(pipeline: Pipeline, seed: int) -> Iterator[None]:
    """Seed every generator that a pipeline may use; restore the global ones afterwards."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if hasattr(pipeline, "set_random_seed"):  # albumentations 2 has its own generators
        pipeline.set_random_seed(seed)  # pyright: ignore[reportFunctionMemberAccess]
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _is_albumentations(pipeline: Any) -> bool:
    return isinstance(getattr(pipeline, "processors", None), dict)


def _torchvision(pipeline: Pipeline, pixels: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> _Objects:
    from torchvision import tv_tensors  # takes seconds, and is loaded anyway if this pipeline needs it
    from torchvision.transforms.v2.functional import convert_bounding_box_format

    wrapped = {
        "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=pixels.shape[:2]),  # pyright: ignore[reportCallIssue]
        "labels": torch.from_numpy(labels),
    }
    image = tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))
    result = pipeline(image, wrapped)
    if not (isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise DatasetError(
            f"transforms returned {_shape_of(result)}; expected the image and the target: return image, target"
        )
    image, target = result
    missing = [name for name in ("boxes", "labels") if name not in target]
    if missing:
        raise DatasetError(f"transforms returned a target without {' and '.join(map(repr, missing))}; keep both")
    moved = target["boxes"]
    if not isinstance(moved, tv_tensors.BoundingBoxes):
        raise DatasetError(
            "transforms returned boxes without their format; expected torchvision's BoundingBoxes. Remove conversions "
            "to plain tensors"
        )
    moved = convert_bounding_box_format(moved, new_format=tv_tensors.BoundingBoxFormat.XYXY)
    return _to_pixels(image), moved.as_subclass(torch.Tensor).double().numpy(), np.asarray(target["labels"])


def _shape_of(result: object) -> str:
    """Describe what a function returned by its types."""
    if isinstance(result, tuple | list):
        return f"({', '.join(type(one).__name__ for one in result)})"
    return "None" if result is None else type(result).__name__


def _albumentations(pipeline: Any, pixels: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> _Objects:
    params = pipeline.processors["bboxes"].params
    fields = list(params.label_fields or [])
    rows = _to_format(boxes, params.format, pixels.shape)
    if not fields:  # then the label is the fifth number of the box
        rows = np.concatenate([rows, labels[:, None]], axis=1)
    result = pipeline(image=np.ascontiguousarray(pixels), bboxes=rows, **dict.fromkeys(fields, labels))
    image = _to_pixels(result["image"])
    rows = np.asarray(result["bboxes"], dtype=np.float64).reshape(-1, rows.shape[1])
    labels = np.asarray(result[fields[0]] if fields else rows[:, 4])
    return image, _from_format(rows[:, :4], params.format, image.shape), labels.reshape(-1)


def _to_format(boxes_xyxy: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Convert pixel xyxy boxes to a box format of albumentations."""
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    if name == "coco":
        return np.concatenate([low, high - low], axis=1)
    if name == "yolo":
        return np.concatenate([(low + high) / 2, high - low], axis=1) / _scale_xyxy(shape)
    return boxes_xyxy / _scale_xyxy(shape) if name == "albumentations" else boxes_xyxy


def _from_format(boxes: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Invert `_to_format`."""
    first, second = boxes[:, :2], boxes[:, 2:]
    if name == "coco":
        return np.concatenate([first, first + second], axis=1)
    if name == "yolo":
        return np.concatenate([first - second / 2, first + second / 2], axis=1) * _scale_xyxy(shape)
    return boxes * _scale_xyxy(shape) if name == "albumentations" else boxes


def _scale_xyxy(shape: tuple[int, ...]) -> np.ndarray:
    return np.array([shape[1], shape[0]] * 2, dtype=np.float32)


def _to_pixels(image: Any) -> np.ndarray:
    """Convert the image returned by a pipeline to uint8 (h, w, c)."""
    if isinstance(image, torch.Tensor):
        image = image.as_subclass(torch.Tensor).permute(1, 2, 0).numpy()
    pixels = np.asarray(image)  # also converts a PIL image
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and 0 not in pixels.shape:
        return np.require(pixels, requirements=["C_CONTIGUOUS", "WRITEABLE"])  # as required by torch
    if np.issubdtype(pixels.dtype, np.floating) and pixels.ndim == 3 and pixels.size:
        low, high = float(pixels.min()), float(pixels.max())
        if low >= -FLOAT_MARGIN and high <= 1 + FLOAT_MARGIN:
            return (pixels * 255).round().clip(0, 255).astype(np.uint8)
        raise DatasetError(
            f"transforms returned an image with values {low:g}..{high:g}; expected [0, 1] or uint8. Remove "
            "normalization with mean and standard deviation: the network expects images in [0, 1]"
        )
    raise DatasetError(f"transforms returned an image of type {pixels.dtype} and shape {pixels.shape}; expected uint8")
