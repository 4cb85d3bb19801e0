"""Estimated memory of a training step."""

import copy
import inspect
import math
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rtdetr.config import STRIDE, Recipe
from rtdetr.models import RTDETR
from rtdetr.models.recompute import recompute_activations, recomputed_parts
from rtdetr.training.muon import matrices_of

_WEIGHTS = 4 + 4  # bytes per parameter: weight and EMA
_GRADIENT, _MOMENT = 4, 4


class Memory(NamedTuple):
    """Estimated bytes on the device of one process.

    weights: parameters, EMA, gradients and optimizer state.
    activations: what the forward pass keeps for the backward pass, for one process's share of the largest batch.
    """

    weights: int
    activations: int

    def __str__(self) -> str:
        total, weights = _bytes(self.weights + self.activations), _bytes(self.weights)
        return f"about {total} for tensors, {weights} of it weights and optimizer (estimate)"


def estimate_memory(model: RTDETR, recipe: Recipe, *, dtype: torch.dtype, world_size: int = 1) -> Memory:
    """Estimate the memory of a step from the tensors that the forward pass of one image keeps, without computing it.

    Denoising queries, the loss and the workspaces of libraries are not counted. 16-bit types are assumed to need half
    as much.

    Args:
        model: the model with its frozen layers.
        recipe: batch size, gradient accumulation, image sizes and gradient checkpointing.
        dtype: compute type of the network.
        world_size: number of processes that share a batch.
    """
    height, width = recipe.train_size_hw
    scale = max((*recipe.multiscale_sizes, height, width)) / max(height, width)
    height, width = (math.ceil(side * scale / STRIDE) * STRIDE for side in (height, width))
    kept = _kept_bytes(model, height, width, recompute=recipe.gradient_checkpointing)
    is_mixed = dtype != torch.float32
    if is_mixed:
        kept //= 2
    images = math.ceil(math.ceil(recipe.batch_size / world_size) / recipe.accumulate)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    moments = 2 * trained
    if recipe.optimizer == "muon":  # keeps one moment of these
        moments -= sum(matrix.numel() for matrix in matrices_of(model) if matrix.requires_grad)
    return Memory(
        weights=(_WEIGHTS + 2 * is_mixed) * parameters  # autocast keeps a copy of two bytes
        + _GRADIENT * trained
        + _MOMENT * moments,
        activations=images * kept,
    )


def _kept_bytes(model: RTDETR, height: int, width: int, *, recompute: bool) -> int:
    """Return the bytes that the forward pass of one image keeps for the backward pass in float32, without parameters.

    With `recompute`, those inside the largest recomputed part are added, because they exist while it is recomputed.
    """
    values = chain(model.parameters(), model.buffers())
    on_meta = {id(value): _without_values(value) for value in values}  # tensors with shapes but without values
    probe = copy.deepcopy(model, on_meta).to("meta").train()  # parts that copy themselves may ignore `on_meta`
    own = {parameter.untyped_storage()._cdata for parameter in probe.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}
    before, inside = [], []

    def total() -> int:
        return sum(storage.nbytes() for storage in kept.values())

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # keep it alive, so that its address is not reused
        return tensor

    images = torch.empty(1, model.config.in_channels, height, width, device="meta")
    for part in recomputed_parts(probe) if recompute else ():
        part.register_forward_pre_hook(lambda *_: before.append(total()))
        part.register_forward_hook(lambda *_: inside.append(total() - before.pop()))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), _ShapesOnly():
        probe(images)
        if not recompute:
            return total()
        largest = max(inside)
        kept.clear()
        recompute_activations(probe)
        probe(images)
    return total() + largest


def _without_values(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


class _ShapesOnly(TorchFunctionMode):
    """Replaces functions that are slow on the meta device, because PyTorch decomposes them there."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in (F.batch_norm, F.grid_sample):
            return func(*args, **kwargs)
        given = inspect.signature(func).bind(*args, **kwargs).arguments
        if func is F.batch_norm:
            return _Norm.apply(given["input"], given.get("weight"), given.get("bias"))
        return _Sampling.apply(given["input"], given["grid"])


class _Norm(torch.autograd.Function):
    """Keeps what batch normalization keeps: its input, the weight, and the mean and deviation of each channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(2, x.shape[1]))
        return torch.empty_like(x)


class _Sampling(torch.autograd.Function):
    """Keeps what grid_sample keeps: its input and the grid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(x, grid)
        return x.new_empty(*x.shape[:2], *grid.shape[1:-1])


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
