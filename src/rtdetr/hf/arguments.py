"""Arguments of a model call in the form of transformers: labels, masks, and unsupported arguments."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rtdetr.errors import InputError
from rtdetr.structures import Target


def targets_of(labels: Any) -> list[Target]:
    """Convert transformers labels to the targets of this library.

    Raises:
        InputError: the labels have another form.
    """
    if not isinstance(labels, Sequence) or not all(isinstance(label, Mapping) for label in labels):
        raise InputError("expected labels as a list with one dict per image, with 'class_labels' and 'boxes'")
    for i, label in enumerate(labels):
        for name in ("class_labels", "boxes"):
            if not isinstance(label.get(name), Tensor):
                raise InputError(f"labels[{i}]: expected tensors 'class_labels' and 'boxes', got {sorted(label)}")
    return [_target(label["class_labels"], label["boxes"]) for label in labels]


def _target(classes: Tensor, boxes: Tensor) -> Target:
    if classes.numel() == 0 and boxes.numel() == 0:  # torch.tensor([]) is float with shape (0,)
        return {"labels": classes.reshape(-1).long(), "boxes": boxes.reshape(-1, 4)}
    return {"labels": classes, "boxes": boxes}


def content_share_hw(pixel_mask: Tensor, pixel_values: Tensor) -> Tensor:
    """Return the shares of height and width that are not padding, float (b, 2), from a `pixel_mask` (b, h, w).

    Raises:
        InputError: the shape of the mask does not match the images.
    """
    expected = (len(pixel_values), *pixel_values.shape[-2:])
    if tuple(pixel_mask.shape) != expected:
        raise InputError(f"expected a pixel_mask (batch, height, width) {expected}, got {tuple(pixel_mask.shape)}")
    mask = pixel_mask.bool()
    rows, columns = mask.any(dim=2).sum(dim=1), mask.any(dim=1).sum(dim=1)
    return torch.stack([rows / mask.shape[1], columns / mask.shape[2]], dim=1)


def check_images(pixel_values: Any, **alternatives: Any) -> None:
    """Check that images were given, and none of the alternative inputs of transformers.

    Raises:
        InputError: `pixel_values` is not a tensor, or an alternative is not None.
    """
    for name, value in alternatives.items():
        if value is not None:
            raise InputError(f"{name} is not supported; pass pixel_values instead")
    if not isinstance(pixel_values, Tensor):
        raise InputError(f"expected pixel_values as a tensor, got {type(pixel_values).__name__}")
