"""Small filled models of the facade for its tests, and stock transformers' results beside ours."""

import copy
import functools
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from rtdetr import zoo
from rtdetr.categories import COCO80
from rtdetr.hf.configuration import RTDetrV2Config
from rtdetr.hf.modeling import RTDetrV2ForObjectDetection
from tests.parity.fill import fill, image

# a test-tiny that stock transformers can hold
TINY = {"name": "custom", "backbone": {"base_width": 8}, "encoder": {"num_blocks": 3}}


def tiny(**changes: Any) -> RTDetrV2ForObjectDetection:
    """The smallest model that stock transformers can hold, with changes to its `ModelConfig`."""
    return copy.deepcopy(_tiny(json.dumps(changes)))


@functools.cache
def _tiny(changes: str) -> RTDetrV2ForObjectDetection:
    config = zoo.model_config("test-tiny").replace(**TINY)
    return filled(config.replace(**json.loads(changes)))


def filled(config: Any) -> RTDetrV2ForObjectDetection:
    """The facade's model of a `ModelConfig`, every learned entry filled by name, in eval mode."""
    categories = COCO80 if config.num_classes == len(COCO80) else None
    model = RTDetrV2ForObjectDetection(RTDetrV2Config.from_model_config(config, categories=categories)).eval()
    fill(model.model.network)
    for key, value in model.state_dict().items():
        if key.endswith("branch2c.norm.weight"):
            value *= 0.2  # else the maps of 33 residual blocks grow until all queries are alike
    return model


def stock(folder: Path, **options: Any) -> torch.nn.Module:
    """The stock model of a folder; nothing may be missing, left over or of another shape."""
    loaded, report = transformers.RTDetrV2ForObjectDetection.from_pretrained(
        folder, output_loading_info=True, local_files_only=True, **options
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return loaded.eval()


def ours(folder: Path, **options: Any) -> RTDetrV2ForObjectDetection:
    """The facade's model of a folder; nothing may be missing, left over or of another shape."""
    loaded, report = RTDetrV2ForObjectDetection.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return loaded


@torch.inference_mode()
def assert_same_outputs(
    first: torch.nn.Module, second: torch.nn.Module, *, size_hw: tuple[int, int] = (96, 128), tolerance: float = 0.0
) -> None:
    """Same logits and boxes, query by query, on the same image."""
    images = image(*size_hw).to(next(first.parameters()).dtype)
    one, two = first(images), second(images)
    assert one.logits.float().std(1).mean() > 0.01  # queries differ from each other: equality means something
    torch.testing.assert_close(one.logits, two.logits, atol=tolerance, rtol=0)
    torch.testing.assert_close(one.pred_boxes, two.pred_boxes, atol=tolerance, rtol=0)
