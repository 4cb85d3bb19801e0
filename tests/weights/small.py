"""Small filled models for the tests of weight files."""

import copy
from typing import Any

import torch

from rtdetr import zoo
from rtdetr.models import RTDETR, build_model
from tests.parity.fill import fill

_BUILT: dict[str, RTDETR] = {}
CONSTANTS = ("decoder.anchors", "decoder.valid_mask", ".num_points_scale", ".num_batches_tracked")


def small(*, transformers: bool = True, **changes: Any) -> RTDETR:
    """A test-tiny with every learned entry filled by name; `transformers`: one that transformers can hold."""
    key = repr((transformers, changes))
    if key not in _BUILT:
        config = zoo.model_config("test-tiny")
        if transformers:
            config = config.replace(name="custom", backbone={"base_width": 8}, encoder={"num_blocks": 3})
        with torch.random.fork_rng(devices=[]):  # random numbers do not depend on what was built before
            _BUILT[key] = build_model(config.replace(**changes)).eval()
        fill(_BUILT[key])
    return copy.deepcopy(_BUILT[key])  # a third of the time of another


def assert_same(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, order: bool = True) -> None:
    """Bit-equal entries of the same types under the same names."""
    assert set(state) == set(expected)
    assert not order or list(state) == list(expected)
    for key, value in expected.items():
        assert state[key].dtype == value.dtype and torch.equal(state[key], value), key
