"""Building blocks shared by backbone, encoder and decoder. Attribute names are those of the published checkpoints."""

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rtdetr.models.convolution import Conv2d

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "silu": F.silu, "gelu": F.gelu}


def activate(x: Tensor, name: str | None) -> Tensor:
    """Apply an activation by name; None is the identity. The result may overwrite `x`."""
    if name is None:
        return x
    return F.relu(x, inplace=True) if name == "relu" else ACTIVATIONS[name](x)


def finite(x: Tensor) -> Tensor:
    """Clamp a float16 residual sum to the float16 range, so that a large activation does not become inf, then NaN.

    Differs: the published RT-DETRv2 decoder does not clamp; RT-DETR's does in one place. No effect on other types.
    """
    return x.clamp(-65504.0, 65504.0) if x.dtype == torch.float16 else x


def map_to_tokens(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
    """Flatten a map into tokens, row by row.

    With this order of operations the gradient has the strides of a channels-last map for any batch size. With
    `x.flatten(2).transpose(1, 2)`, the batch stride of a single image would be that of a channel, for which PyTorch's
    batch norm silently computes a wrong gradient on CPUs (docs/limits.md).
    """
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def tokens_to_map(tokens: Float[Tensor, "b s c"], height: int, width: int) -> Float[Tensor, "b c h w"]:
    """Reshape tokens into a map, the inverse of `map_to_tokens`."""
    return tokens.view(tokens.shape[0], height, width, tokens.shape[2]).permute(0, 3, 1, 2)


class FrozenBatchNorm2d(nn.Module):
    """Frozen batch norm: statistics and affine parameters are four constant buffers."""

    eps = 1e-5

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)  # in checkpoints of a trainable batch norm
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)  # under autocast x has two bytes


def batch_norm(num_features: int, *, frozen: bool = False) -> nn.BatchNorm2d | FrozenBatchNorm2d:
    """Return a trainable or a frozen batch norm."""
    return FrozenBatchNorm2d(num_features) if frozen else nn.BatchNorm2d(num_features)


def freeze_norms(root: nn.Module, modules: Sequence[nn.Module]) -> None:
    """Freeze the batch norms in the given modules of `root`; a module may be a norm itself.

    `train()` and synchronized batch norm do not unfreeze them. The unused batch counter is dropped.
    """
    chosen = {module for part in modules for module in part.modules()}
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if child in chosen and isinstance(child, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(child.num_features).to(child.weight.device)
                frozen.load_state_dict(child.state_dict())
                setattr(parent, name, frozen.train(child.training))


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, optional activation. `fuse` folds the norm into the convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: str | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        self.conv: nn.Conv2d = Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.norm = batch_norm(out_channels, frozen=frozen)
        self.activation = activation

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        return activate(self.norm(self.conv(x)), self.activation)

    def folding(self) -> tuple[nn.Conv2d, nn.BatchNorm2d | FrozenBatchNorm2d]:
        """Return the convolution and the norm that follows it, for folding."""
        return self.conv, self.norm


class SelfAttention(nn.Module):
    """Multi-head self-attention that adds the position code to queries and keys only.

    Parameter names, layout and initial values are those of `torch.nn.MultiheadAttention`.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        x: Float[Tensor, "b s d"],
        position: Float[Tensor, "#b s d"],
        *,
        allowed: Bool[Tensor, "s s"] | None = None,
        keep: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "b s d"]:
        """Attend within `x`; `allowed` is True where a row may attend to a column.

        `keep` receives the attention weights (b, heads, s, s), with rows that add up to 1, and returns the weights to
        use.
        """
        width = x.shape[-1]
        query_key = F.linear(x + position, self.in_proj_weight[: 2 * width], self.in_proj_bias[: 2 * width])
        query, key = self._heads(query_key).chunk(2, dim=1)
        value = self._heads(F.linear(x, self.in_proj_weight[2 * width :], self.in_proj_bias[2 * width :]))
        if keep is None:
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)  # (b, h, s, d/h)
        else:
            scale = query.shape[-1] ** -0.25  # applied to both, as the function above does without a fused kernel
            scores = (query * scale) @ (key.transpose(-1, -2) * scale)
            scores = scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)
            out = keep(scores.softmax(-1)) @ value
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Float[Tensor, "b s e"]) -> Float[Tensor, "b m s c"]:
        channels = self.in_proj_weight.shape[1] // self.num_heads
        return x.view(x.shape[0], x.shape[1], -1, channels).transpose(1, 2)


class MLP(nn.Module):
    """Linear layers with an activation between them."""

    def __init__(self, widths: Sequence[int], *, activation: str = "relu") -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        self.activation = activation

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        for layer in self.layers[:-1]:
            x = activate(layer(x), self.activation)
        return self.layers[-1](x)


def linears(module: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of a module, in order."""
    return [m for m in module.modules() if isinstance(m, nn.Linear)]
