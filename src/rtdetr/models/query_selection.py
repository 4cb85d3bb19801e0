"""Query selection: choose the encoder tokens that become object queries. Source: arXiv 2304.08069 section 4.3."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rtdetr.models.postprocess import best_pairs


def select_queries(logits: Float[Tensor, "b s k"], num_queries: int, method: str) -> Int64[Tensor, "b q"]:
    """Return token indices, best first; fewer than `num_queries` if the maps have fewer tokens.

    Args:
        logits: class scores of every token before the sigmoid; one column for `agnostic`.
        num_queries: number of tokens to select.
        method: `default` ranks tokens by their best class, `agnostic` by their only score, `one2many` ranks pairs of
            token and class, so that a token can be selected more than once.
    """
    if method == "one2many":
        return best_pairs(logits, num_queries)[1]
    scores = logits.squeeze(-1) if method == "agnostic" else logits.amax(-1)
    return scores.topk(min(num_queries, scores.shape[1]), dim=-1).indices


def take(x: Float[Tensor, "#b s d"], index: Int64[Tensor, "b q"]) -> Float[Tensor, "b q d"]:
    """Return the rows of `x` at `index`, per image."""
    x = x.expand(index.shape[0], -1, -1)
    return torch.gather(x, 1, index[..., None].expand(-1, -1, x.shape[-1]))
