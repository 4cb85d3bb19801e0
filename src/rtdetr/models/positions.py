"""Constants that depend on the map size: the sine position code of the tokens and the anchors.

They are computed for any size, including rectangles, and cached. As in published code, the default is float32 even for
float64 networks; the caller converts them.
"""

import functools

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rtdetr.devices import is_recording

SizesHW = tuple[tuple[int, int], ...]
EPS = 0.01  # anchors closer than this to the image border are invalid
BASE_SIZE = 0.05  # side of an anchor on the finest map, as a fraction of the image


def inverse_sigmoid(x: Float[Tensor, "*n"], *, eps: float = 1e-5) -> Float[Tensor, "*n"]:
    """Return the logit of a probability, finite for every input: x and 1 - x are clamped to at least `eps`."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def repeatable_inverse_sigmoid(x: Float[Tensor, "*n"], *, eps: float = 1e-5) -> Float[Tensor, "*n"]:
    """`inverse_sigmoid` with the same bits on every CPU: the logarithm is rounded from float64.

    MKL's float32 logarithm differs in the last bit between processors with and without AVX-512.
    """
    x = x.clamp(0, 1)
    odds = x.clamp(min=eps) / (1 - x).clamp(min=eps)
    if torch.compiler.is_compiling() or x.device.type == "mps":  # runtimes and Apple's GPUs have no float64
        return odds.log()
    return odds.double().log().to(x.dtype)


def _cached(function):
    """Cache ordinary tensors (never inference-mode ones, which autograd would refuse later); no cache while tracing."""
    cached = functools.lru_cache(maxsize=64)(torch.inference_mode(False)(torch.no_grad()(function)))

    @functools.wraps(function)
    def call(*args):
        return function(*args) if is_recording() else cached(*args)

    return call


@_cached
def sine_position_code(
    height: int, width: int, channels: int, temperature: float, device: torch.device, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "1 s {channels}"]:
    """Return the sine position code of a map's tokens: half of the channels encode the row, half the column.

    Differs: published code scrambles the table of a map that is not square; on square maps both are the same.
    Source: arXiv 2304.08069 section 4.2.
    """
    quarter = channels // 4
    omega = 1.0 / temperature ** (torch.arange(quarter, dtype=dtype, device=device) / quarter)
    rows = torch.arange(height, dtype=dtype, device=device)[:, None] * omega
    columns = torch.arange(width, dtype=dtype, device=device)[:, None] * omega
    row_code = torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(height, width, 2 * quarter)
    column_code = torch.cat([columns.sin(), columns.cos()], dim=1)[None].expand(height, width, 2 * quarter)
    return torch.cat([row_code, column_code], dim=-1).flatten(0, 1)[None]


@_cached
def make_anchors(
    sizes_hw: SizesHW, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "1 s 4"], Bool[Tensor, "1 s 1"]]:
    """Return one anchor per token, as cxcywh logits, with the mask of valid anchors; invalid anchors are +inf.

    Args:
        sizes_hw: the (height, width) of each map, finest first; tokens follow row by row.
        device: device of the result.
        dtype: of the result; 16 bits are too coarse.
    """
    anchors = []
    for level, (height, width) in enumerate(sizes_hw):
        y = (torch.arange(height, dtype=dtype, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=dtype, device=device) + 0.5) / width
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        side = torch.full_like(grid_x, BASE_SIZE * 2.0**level)
        anchors.append(torch.stack([grid_x, grid_y, side, side], dim=-1).flatten(0, 1))
    boxes = torch.cat(anchors)[None]
    valid = ((boxes > EPS) & (boxes < 1 - EPS)).all(-1, keepdim=True)
    logits = repeatable_inverse_sigmoid(boxes).masked_fill(~valid, torch.inf)
    return logits, valid
