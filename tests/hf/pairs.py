"""A model of this library's Hugging Face API and transformers' own with the same weights, and their inputs."""

import copy
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from rtdetr.hf import RTDetrV2Config, RTDetrV2ForObjectDetection
from rtdetr.models import RTDETR
from rtdetr.weights import save_huggingface
from tests.weights.small import small

ANCHORS = ("decoder.anchors", "decoder.valid_mask")


def facade_of(network: RTDETR) -> RTDetrV2ForObjectDetection:
    """A facade with the weights of a network."""
    model = RTDetrV2ForObjectDetection(RTDetrV2Config.from_model_config(network.config)).eval()
    state = {key: value for key, value in network.state_dict().items() if key not in ANCHORS}
    model.base.network.load_state_dict(state)
    return model


def facade(**changes: Any) -> RTDetrV2ForObjectDetection:
    """A small filled facade, see `small`."""
    return copy.deepcopy(_facade(json.dumps({"num_classes": 5} | changes)))


@functools.cache
def _facade(changes: str) -> RTDetrV2ForObjectDetection:
    return facade_of(small(**json.loads(changes)))


def pair() -> tuple[RTDetrV2ForObjectDetection, torch.nn.Module]:
    """Ours and the stock model, small; see `pair_of`."""
    return copy.deepcopy(_pair())


@functools.cache
def _pair() -> tuple[RTDetrV2ForObjectDetection, torch.nn.Module]:
    with tempfile.TemporaryDirectory() as folder:
        return pair_of(small(num_classes=5, decoder={"num_denoising": 10}), Path(folder))


def pair_of(network: RTDETR, folder: Path) -> tuple[RTDetrV2ForObjectDetection, torch.nn.Module]:
    """Ours and the stock model, through a saved folder; the stock one computes attention as it can return it."""
    save_huggingface(network, folder)
    stock = transformers.RTDetrV2ForObjectDetection.from_pretrained(folder, attn_implementation="eager")
    return facade_of(network), stock.eval()


def labels(*counts: int, num_classes: int = 5) -> list[dict[str, torch.Tensor]]:
    """Random labels with that many objects an image."""
    generator = torch.Generator().manual_seed(3)
    return [
        {
            "class_labels": torch.randint(0, num_classes, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.3 + 0.2,
        }
        for n in counts
    ]


def differences(got: Any, expected: Any, name: str = "") -> dict[str, float]:
    """Largest difference of each tensor in two nested outputs, which must have the same structure and types."""
    if isinstance(expected, torch.Tensor):
        assert got.shape == expected.shape and got.dtype == expected.dtype, name
        apart = (got - expected).abs().masked_fill(got == expected, 0)  # infinities are equal to each other
        return {name: apart.max().item() if apart.numel() else 0.0}
    if isinstance(expected, dict):
        assert list(got) == list(expected), name
        return {k: v for key in expected for k, v in differences(got[key], expected[key], f"{name}.{key}").items()}
    if isinstance(expected, list | tuple):
        assert len(got) == len(expected), name
        pairs = enumerate(zip(got, expected, strict=True))
        return {k: v for i, (x, y) in pairs for k, v in differences(x, y, f"{name}.{i}").items()}
    assert got == expected, name
    return {}
