"""Inputs and outputs of networks, the same for every runtime."""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Images for the engine: pixels, and the original sizes int64 (n, 2) as width and height.

    Pixels are uint8 (b, c, h, w), or (1, h, w, c) if the graph resizes; n is less than b if images were added to fill
    up the engine's minimum batch.
    """

    pixels: np.ndarray
    sizes_wh: np.ndarray

    @property
    def padded_sizes_wh(self) -> np.ndarray:
        """Sizes of all b images, including added ones."""
        return np.resize(self.sizes_wh, (len(self.pixels), 2))


class RawOutput(NamedTuple):
    """Output of a network: logits float32 (b, q, k) and normalized boxes float32 (b, q, 4)."""

    logits: np.ndarray
    boxes_cxcywh: np.ndarray


class BoxOutput(NamedTuple):
    """Output of a graph with postprocessing: labels (b, n), boxes (b, n, 4) in pixels and scores (b, n)."""

    labels: np.ndarray
    boxes_xyxy: np.ndarray
    scores: np.ndarray


Output = RawOutput | BoxOutput
