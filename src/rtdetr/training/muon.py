"""Muon: an optimizer for matrices, whose updates change all directions of a matrix by about the same amount.

Sources: K. Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/; size of the update: arXiv 2502.16982.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rtdetr.models.layers import SelfAttention
from rtdetr.weights.transfer import CLASS_HEADS

UPDATE_RMS = 0.2  # root mean square of an update, divided by the learning rate (arXiv 2502.16982)
_ITERATIONS, _COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
MOMENTUM_BUFFER = "momentum_buffer"  # in the optimizer's state of a parameter
_BOX_HEADS, _BOX = ("decoder.enc_bbox_head.", "decoder.dec_bbox_head."), 4


class Muon(torch.optim.Optimizer):
    """Muon for the parameter groups with `muon=True`, AdamW for the others.

    Muon keeps one moment per parameter. Kernels of convolutions are matrices with a row per output channel.

    Args:
        groups: parameter groups; they may have their own `lr` and `weight_decay`.
        lr: learning rate.
        weight_decay: decoupled weight decay.
        betas: of AdamW; the first one is also the momentum of Muon.
        fused: whether AdamW runs in one kernel.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        fused: bool | None = None,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "fused": fused, "muon": False}
        super().__init__(groups, defaults)

    def _groups(self, *, muon: bool) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group["muon"] == muon]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; `closure` computes the gradients and returns the loss."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        if others := self._groups(muon=False):
            adamw = torch.optim.AdamW(others)  # it adds its other settings to these groups
            adamw.state = self.state
            adamw.step()
        for group in self._groups(muon=True):
            self._update_matrices(group)
        return loss

    @torch.no_grad()
    def rehearse(self) -> None:
        """Compute the directions of the gradients, which takes most of the time of a step; change nothing."""
        for group in self._groups(muon=True):
            for shape, members in _by_shape(group).items():
                gradients = [member.grad for member in members if member.grad is not None]
                orthogonalized(torch.stack([gradient.reshape(shape) for gradient in gradients]))

    def _update_matrices(self, group: dict[str, Any]) -> None:
        """Update one group; matrices of the same shape are computed together."""
        beta, _ = group["betas"]
        for shape, members in _by_shape(group).items():
            directions = orthogonalized(
                torch.stack([self._momentum(member, beta).reshape(shape) for member in members])
            )
            size = group["lr"] * UPDATE_RMS * max(shape) ** 0.5
            for parameter, direction in zip(members, directions, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction.reshape(parameter.shape), alpha=-size)

    def _momentum(self, parameter: nn.Parameter, beta: float) -> Tensor:
        """Average the gradients of a parameter and return Nesterov's form of the average."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if MOMENTUM_BUFFER not in state:
            state[MOMENTUM_BUFFER] = torch.zeros_like(parameter)
        state[MOMENTUM_BUFFER].lerp_(gradient, 1 - beta)
        return gradient.lerp(state[MOMENTUM_BUFFER], beta)


def _by_shape(group: dict[str, Any]) -> dict[tuple[int, int], list[nn.Parameter]]:
    """Return the parameters that have a gradient by their numbers of rows and columns."""
    members: dict[tuple[int, int], list[nn.Parameter]] = {}
    for parameter in group["params"]:
        if parameter.grad is not None:
            members.setdefault((len(parameter), parameter[0].numel()), []).append(parameter)
    return members


def orthogonalized(matrices: Float[Tensor, "n r c"]) -> Float[Tensor, "n r c"]:
    """Return matrices with about the same singular vectors and with singular values of about 0.7 to 1.2.

    Five steps of a Newton-Schulz iteration; in bfloat16, which is precise enough, on a GPU that supports it.
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False):
        x = _iterate(x.bfloat16())
    else:
        x = _iterate_gram(x) if x.shape[-1] > 1.5 * x.shape[-2] else _iterate(x)
    return (x.mT if is_tall else x).to(matrices.dtype)


def _iterate(x: Tensor) -> Tensor:
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def _iterate_gram(x: Tensor) -> Tensor:
    """Do the same on x @ x.T, which is much smaller for long matrices; for float32 and wider."""
    a, b, c = _COEFFICIENTS
    gram, total = x @ x.mT, None
    for left in reversed(range(_ITERATIONS)):
        factor = b * gram + c * gram @ gram
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        total = factor if total is None else factor @ total
        if left:
            gram = factor @ gram @ factor
    assert total is not None
    return total @ x


def matrices_of(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that Muon updates: weights of layers that mix channels, other than those of the outputs."""
    found = {
        id(parameter): parameter  # shared ones once
        for prefix, module in model.named_modules()
        if isinstance(module, (nn.Linear, SelfAttention)) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        for name, parameter in module.named_parameters(prefix, recurse=False)
        if parameter.ndim > 1 and not _is_output(name, parameter)
    }
    return list(found.values())


def _is_output(name: str, parameter: nn.Parameter) -> bool:
    return name.startswith(CLASS_HEADS) or (name.startswith(_BOX_HEADS) and len(parameter) == _BOX)
