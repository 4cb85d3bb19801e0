"""Resize images with torch: within 1 level of Pillow in a tenth of the time."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch.nn import functional as F


def resize_with_torch(pixels: UInt8[np.ndarray, "h w c"], size_hw: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Resize with bilinear resampling and antialiasing, like torchvision's `resize` (which takes seconds to import)."""
    height, width, channels = pixels.shape
    if (height, width) == size_hw:
        return pixels
    if min(pixels.strides) < 0:  # also of a single row, which NumPy calls contiguous
        pixels = pixels.copy()
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    # torch copies the result unless the batch of one image has the strides of a channels-last batch
    batch = planes.as_strided((1, channels, height, width), (pixels.size, *planes.stride()))
    return F.interpolate(batch, size_hw, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
