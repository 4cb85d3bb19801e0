"""Warnings about what files do not say of their weights, and what they say that cannot be followed as it stands.

Weights alone show the shape of a network. They do not show how many queries it has, which images it takes, and what its
classes are called.
"""

import logging
from pathlib import Path

from rtdetr.categories import COCO80, Categories
from rtdetr.config import ModelConfig
from rtdetr.models.decoder import level_sizes
from rtdetr.weights.huggingface_fields import CONFIG
from rtdetr.weights.huggingface_preprocessor import PREPROCESSOR
from rtdetr.wording import counted

_log = logging.getLogger(__name__)
WEIGHTS = "model.safetensors"
NAMES = f"class names in {CONFIG}"


def tell_assumed(
    path: Path, missing: tuple[str, ...], config: ModelConfig, *, categories: Categories | None, named: bool
) -> None:
    """Say which files are missing beside weights of transformers, and what was assumed in their place.

    Args:
        path: the folder or file that was read.
        missing: one or several of `CONFIG`, `NAMES` and `PREPROCESSOR`.
        config: the model that the weights were taken for.
        categories: its classes, where something names them.
        named: the caller says which model it is.
    """
    parts = [_network(config)] if CONFIG in missing and not named else []
    if not categories and not {CONFIG, NAMES}.isdisjoint(missing):
        parts.append(_classes(config.num_classes))
    if PREPROCESSOR in missing:
        height, width = config.eval_size_hw or (640, 640)
        parts.append(f"images stretched to {height}x{width} and divided by 255, without normalization")
    if path.is_dir():
        remedy = "Put the files that belong to these weights there"
    else:
        remedy = f"Give a folder with the weights as {WEIGHTS} and the files that belong to them"
    _log.warning(
        "%s has no %s, so these are assumed: %s. %s",
        *(path, " and no ".join(missing), "; ".join(parts), remedy),
    )


def tell_assumed_sampling(path: Path) -> None:
    """Say that nothing shows how a model samples features, and how to state it."""
    _log.warning(
        "%s does not say how its model samples features, so bilinear is assumed. If it was trained with "
        "cross_attn_method: discrete, give its YAML file or name, such as rtdetrv2_r18vd_dsp: --config (Python: model)",
        path,
    )


def tell_other_sampling(path: Path, trained: str | None, said: str, origin: str) -> None:
    """Say where the optimizer in a checkpoint shows another sampling than what is said about its model."""
    if trained not in (None, said):
        _log.warning(
            "%s was trained with %s sampling, as its optimizer shows, but %s says %s, which is used. Correct that",
            *(path, trained, origin, said),
        )


def tell_few_tokens(path: Path, config: ModelConfig) -> None:
    """Say that a model has more queries than an image of its size has tokens to pick them from."""
    size_hw = config.eval_size_hw
    if size_hw is None:
        return
    tokens = sum(height * width for height, width in level_sizes(size_hw, len(config.decoder.num_points)))
    if config.decoder.num_queries > tokens:
        _log.warning(
            "%s: num_queries is %d, but an image of %dx%d has only %d tokens to pick them from, so %d are used. Use "
            "a larger size, or set num_queries to %d in its config.json or in the file of --config",
            *(path, config.decoder.num_queries, *size_hw, tokens, tokens, tokens),
        )


def _network(config: ModelConfig) -> str:
    decoder = config.decoder
    last = decoder.eval_idx % decoder.num_layers + 1
    known = "" if config.name == "custom" else f"the model {config.name} with "
    return (
        f"{known}{counted(decoder.num_queries, 'query')}, {counted(decoder.num_heads, 'attention head')} and "
        f"{decoder.sampling} sampling, evaluated after decoder layer {last} of {decoder.num_layers}"
    )


def _classes(number: int) -> str:
    if number == len(COCO80):
        return f"the {counted(number, 'class')} of COCO"
    return f"{counted(number, 'class')} without names"
