"""Resizing with torch: the values of torchvision's function, for every shape."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from rtdetr.torch_resize import resize_with_torch


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("shape", [(48, 64), (1, 1), (37, 200), (333, 1)])
@pytest.mark.parametrize("size_hw", [(64, 64), (32, 96), (1, 1), (48, 64)])
def test_values_are_those_of_torchvision(shape, channels, size_hw):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, channels), dtype=np.uint8)
    for source in (pixels, pixels[::-1], pixels[:, : (shape[1] + 1) // 2]):
        planes = torch.from_numpy(source.copy()).permute(2, 0, 1)
        expected = functional.resize(planes, list(size_hw), antialias=True).permute(1, 2, 0)
        assert np.array_equal(resize_with_torch(source, size_hw), expected.numpy())
