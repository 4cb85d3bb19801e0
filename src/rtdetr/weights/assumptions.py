"""Warnings about assumptions: what weight files do not specify, or specify incorrectly.

Weights alone show the structure of a network, but not the number of queries, the preprocessing and the class names.
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


def warn_assumed(
    path: Path, missing: tuple[str, ...], config: ModelConfig, *, categories: Categories | None, named: bool
) -> None:
    """Warn about files missing next to transformers weights, and about the assumed values.

    Args:
        path: the folder or file that was read.
        missing: any of `CONFIG`, `NAMES` and `PREPROCESSOR`.
        config: the assumed model.
        categories: its classes, if known.
        named: whether the caller named the model.
    """
    parts = [_network(config)] if CONFIG in missing and not named else []
    if not categories and not {CONFIG, NAMES}.isdisjoint(missing):
        parts.append(_classes(config.num_classes))
    if PREPROCESSOR in missing:
        height, width = config.size_hw
        parts.append(f"images stretched to {height}x{width} and divided by 255, without normalization")
    if path.is_dir():
        remedy = "Add the files that belong to these weights"
    else:
        remedy = f"Give a folder with the weights as {WEIGHTS} and the files that belong to them"
    _log.warning(
        "%s has no %s, so these values are assumed: %s. %s",
        *(path, " and no ".join(missing), "; ".join(parts), remedy),
    )


def warn_assumed_sampling(path: Path) -> None:
    """Warn that the sampling method of a model is unknown, and how to set it."""
    _log.warning(
        "%s does not say how its model samples features, so bilinear is assumed. If it was trained with "
        "cross_attn_method: discrete, give its YAML file or name, such as rtdetrv2_r18vd_dsp: --config (Python: model)",
        path,
    )


def warn_other_sampling(path: Path, trained: str | None, stated: str, origin: str) -> None:
    """Warn if the optimizer in a checkpoint shows another sampling method than the one stated for its model."""
    if trained not in (None, stated):
        _log.warning(
            "%s was trained with %s sampling, as its optimizer shows, but %s says %s, which is used. Correct it there",
            *(path, trained, origin, stated),
        )


def warn_few_tokens(path: Path, config: ModelConfig) -> None:
    """Warn if a model has more queries than an image of its size has tokens to select them from."""
    size_hw = config.eval_size_hw
    if size_hw is None:
        return
    tokens = sum(height * width for height, width in level_sizes(size_hw, len(config.decoder.num_points)))
    if config.decoder.num_queries > tokens:
        _log.warning(
            "%s: num_queries is %d, but an image of %dx%d has only %d tokens to select them from, so %d are used. "
            "Use a larger size, or set num_queries to %d in its config.json or in the file given with --config",
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
