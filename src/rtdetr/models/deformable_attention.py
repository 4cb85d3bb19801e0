"""Multi-scale deformable attention: each query samples a few points around its reference box on every map.

Source: arXiv 2010.04159; points per level and discrete sampling: arXiv 2407.17140 section 3.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rtdetr.config import DecoderConfig
from rtdetr.devices import at_least_float32, is_recording
from rtdetr.models.positions import SizesHW

OFFSET_SCALE = 0.5  # an offset of n points spans half the reference box


class DeformableAttention(nn.Module):
    """Deformable attention over the points of all levels, with one softmax over all points.

    `sample` interpolates or rounds. Coordinates are float32 or wider, whatever the model's type.
    """

    def __init__(self, config: DecoderConfig, *, version: str = "v2") -> None:
        super().__init__()
        self.num_heads, self.num_points, self.sampling = config.num_heads, config.num_points, config.sampling
        total = sum(self.num_points)
        scale = [1 / n for n in self.num_points for _ in range(n)]
        # v1 checkpoints do not have this constant
        self.num_points_scale: Tensor
        self.register_buffer("num_points_scale", torch.tensor(scale), persistent=version == "v2")
        self.sampling_offsets = nn.Linear(config.width, self.num_heads * total * 2)
        self.attention_weights = nn.Linear(config.width, self.num_heads * total)
        self.value_proj = nn.Linear(config.width, config.width)
        self.output_proj = nn.Linear(config.width, config.width)
        self._reset_parameters()
        if self.sampling == "discrete":  # rounding has no gradient with respect to the offsets
            self.sampling_offsets.requires_grad_(False)

    def _reset_parameters(self) -> None:
        """Initialize the points on rays around the reference: one direction per head, farther out for later points."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2.0 * math.pi / self.num_heads)
        rays = torch.stack([angles.cos(), angles.sin()], -1)
        rays = rays / rays.abs().max(-1, keepdim=True).values
        ranks = torch.cat([torch.arange(1, n + 1) for n in self.num_points])
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((rays[:, None] * ranks[None, :, None]).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Float[Tensor, "b q d"],
        reference_cxcywh: Float[Tensor, "b q 4"],
        memory: Float[Tensor, "b s d"],
        sizes_hw: SizesHW,
        *,
        keep: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "b q d"]:
        """Sample `memory`, the tokens of all maps, finest first, around the normalized reference boxes.

        `keep` receives the attention weights of the points (b, q, heads, p), which add up to 1, and returns the weights
        to use.
        """
        value = self.value_proj(memory)
        heads = (self.num_heads, sum(self.num_points))
        offsets = self.sampling_offsets(query).to(reference_cxcywh.dtype).view(*query.shape[:2], *heads, 2)
        weights = self.attention_weights(query).view(*query.shape[:2], *heads).softmax(-1)  # (b, q, h, p)
        weights = weights if keep is None else keep(weights)
        center, extent = reference_cxcywh[:, :, None, None].chunk(2, dim=-1)
        scale = self.num_points_scale.to(offsets.dtype)[:, None]
        locations = center + offsets * scale * extent * OFFSET_SCALE
        return self.output_proj(sample(value, locations, weights, sizes_hw, self.num_points, self.sampling))


def sample(
    value: Float[Tensor, "b s d"],
    locations_xy: Float[Tensor, "b q h p 2"],
    weights: Float[Tensor, "b q h p"],
    sizes_hw: SizesHW,
    num_points: tuple[int, ...],
    sampling: str,
) -> Float[Tensor, "b q d"]:
    """Weighted sum over sampled points of each head's slice of `value`.

    On CPUs, for discrete sampling, and with deterministic algorithms, rows of `value` are gathered and summed in one
    operation. Otherwise, bilinear sampling uses `grid_sample`. Both give the same numbers.
    """
    by_grid = value.device.type != "cpu" and not torch.are_deterministic_algorithms_enabled()  # its gradient is not
    if sampling == "bilinear" and by_grid:
        return _sample_by_grid(value, locations_xy, weights, sizes_hw, num_points)
    corners = nearest_rows if sampling == "discrete" else bilinear_rows
    levels = _levels(sizes_hw, num_points, locations_xy)
    rows, shares = corners(locations_xy, levels)  # each (b, q, h, p, corners)
    shares = (shares * weights[..., None].to(shares.dtype)).flatten(3)
    return _weighted_rows(value, rows.flatten(3), shares.to(value.dtype))


def _levels(sizes_hw: SizesHW, num_points: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the width and height of each point's level (p, 2), and the index of the level's first token (p,)."""
    starts = [0]
    for height, width in sizes_hw[:-1]:
        starts.append(starts[-1] + height * width)
    extent = [(width, height) for (height, width), n in zip(sizes_hw, num_points, strict=True) for _ in range(n)]
    start = [s for s, n in zip(starts, num_points, strict=True) for _ in range(n)]
    if is_recording():  # a tensor of constants would fix sizes that must stay dynamic
        sides = torch.stack([like.new_full((), side) for pair in extent for side in pair]).unflatten(0, (-1, 2))
        return sides, torch.stack([torch.full((), s, dtype=torch.int64, device=like.device) for s in start])
    return like.new_tensor(extent), torch.tensor(start, device=like.device)


def bilinear_rows(
    locations_xy: Float[Tensor, "b q h p 2"], levels: tuple[Tensor, Tensor]
) -> tuple[Int64[Tensor, "b q h p 4"], Float[Tensor, "b q h p 4"]]:
    """Return token and weight of the four pixels around each location; pixels outside the map have weight 0."""
    extent, start = levels
    position = locations_xy * extent - 0.5
    low = position.floor()
    part = position - low
    pixels = torch.stack([low, low + 1], dim=-1)  # (..., xy, low or high)
    last = (extent - 1)[..., None]
    inside = (pixels >= 0) & (pixels <= last)
    shares = torch.stack([1 - part, part], dim=-1) * inside
    pixels = pixels.clamp(min=0).minimum(last).long()
    columns, lines = pixels.unbind(-2)
    lines = lines * extent[:, :1].long() + start[:, None]
    rows = (lines[..., :, None] + columns[..., None, :]).flatten(-2)
    return rows, (shares[..., 1, :, None] * shares[..., 0, None, :]).flatten(-2)


def nearest_rows(
    locations_xy: Float[Tensor, "b q h p 2"], levels: tuple[Tensor, Tensor]
) -> tuple[Int64[Tensor, "b q h p 1"], Float[Tensor, "b q h p 1"]]:
    """Return the token of the pixel nearest to each location: location times size, rounded and clamped to the map.

    This rounding is half a pixel off the convention of bilinear sampling, as the published weights expect.
    Differs: published code clamps columns by the height, which is wrong on maps that are not square.
    """
    extent, start = levels
    pixels = (locations_xy.detach() * extent + 0.5).long()
    columns, lines = pixels.clamp(min=0).minimum(extent.long() - 1).unbind(-1)
    rows = start + lines * extent[:, 0].long() + columns
    return rows[..., None], torch.ones_like(locations_xy[..., :1])


def _weighted_rows(
    value: Float[Tensor, "b s d"], rows: Int64[Tensor, "b q h n"], shares: Float[Tensor, "b q h n"]
) -> Float[Tensor, "b q d"]:
    """Return the weighted sum of rows, where a row holds one head's channels of one token."""
    batch, tokens, width = value.shape
    heads = rows.shape[2]
    first = torch.arange(batch, device=rows.device)[:, None] * tokens  # (b, 1)
    table = ((rows + first[..., None, None]) * heads + torch.arange(heads, device=rows.device)[:, None]).flatten(0, 2)
    slices = value.reshape(batch * tokens * heads, width // heads)
    sum_rows = _sum_rows_on_cpu if value.device.type == "cpu" else _sum_rows
    return sum_rows(slices, table, shares.flatten(0, 2)).view(batch, -1, width)


def _sum_rows_on_cpu(slices: Float[Tensor, "t c"], table: Int64[Tensor, "r n"], shares: Float[Tensor, "r n"]) -> Tensor:
    trains = torch.is_grad_enabled() and (slices.requires_grad or shares.requires_grad)
    if trains and not is_recording():  # tracing cannot follow scipy
        return _SumRows.apply(slices, table, shares)
    return F.embedding_bag(table, slices, mode="sum", per_sample_weights=shares)


class _SumRows(torch.autograd.Function):
    """`embedding_bag` with a faster gradient of the rows: a sparse product; torch sorts the table first."""

    @staticmethod
    def forward(ctx: Any, slices: Tensor, table: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(slices, table, shares)
        return F.embedding_bag(table, slices, mode="sum", per_sample_weights=shares)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        slices, table, shares = ctx.saved_tensors
        of_slices = of_shares = None
        if ctx.needs_input_grad[0]:
            from scipy import sparse  # only training needs it

            wide = at_least_float32(slices.dtype)  # scipy has no 16-bit types
            parts = [x.to(wide).contiguous().numpy() for x in (shares, gradient)]
            ends = np.arange(0, table.numel() + 1, table.shape[1])
            matrix = sparse.csr_array((parts[0].ravel(), table.numpy().ravel(), ends), shape=(len(table), len(slices)))
            of_slices = torch.from_numpy(matrix.T @ parts[1]).to(slices.dtype)
        if ctx.needs_input_grad[2]:
            with torch.enable_grad():
                variable = shares.detach().requires_grad_()
                total = F.embedding_bag(table, slices.detach(), mode="sum", per_sample_weights=variable)
            (of_shares,) = torch.autograd.grad(total, variable, gradient)
        return of_slices, None, of_shares


def _sum_rows(slices: Float[Tensor, "t c"], table: Int64[Tensor, "r n"], shares: Float[Tensor, "r n"]) -> Tensor:
    return (slices[table] * shares[..., None]).sum(1)


def _sample_by_grid(
    value: Float[Tensor, "b s d"],
    locations_xy: Float[Tensor, "b q h p 2"],
    weights: Float[Tensor, "b q h p"],
    sizes_hw: SizesHW,
    num_points: tuple[int, ...],
) -> Float[Tensor, "b q d"]:
    """Sample bilinearly with `grid_sample`, in the locations' type: 16-bit coordinates would be off by whole pixels."""
    batch, _, heads = weights.shape[:3]
    maps = value.unflatten(-1, (heads, -1)).permute(0, 2, 3, 1).flatten(0, 1).to(locations_xy.dtype)  # (b*h, c, s)
    maps = maps.split([height * width for height, width in sizes_hw], dim=-1)
    grids = (2 * locations_xy - 1).transpose(1, 2).flatten(0, 1).split(num_points, dim=2)  # (b*h, q, p, 2)
    sampled = [
        F.grid_sample(x.unflatten(-1, size), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        for x, size, grid in zip(maps, sizes_hw, grids, strict=True)
    ]
    shares = weights.transpose(1, 2).flatten(0, 1)[:, None].to(locations_xy.dtype)  # (b*h, 1, q, p)
    out = (torch.cat(sampled, dim=-1) * shares).sum(-1)  # (b*h, c, q)
    return out.unflatten(0, (batch, heads)).flatten(1, 2).transpose(1, 2).to(value.dtype)
