"""Parameter names: official RT-DETRv2 (what this library uses), official RT-DETR v1, and Hugging Face transformers.

Two tables, each used in both directions. A row pairs two name prefixes, where `#` is a number; the first row that fits
is used, and the rest of the name is unchanged. Attention projections are one stacked tensor in official files and three
tensors in transformers; `to_huggingface` and `from_huggingface` split and join them.
"""

import functools
import re
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from rtdetr.errors import WeightsError
from rtdetr.wording import counted

State = dict[str, Tensor]
Table = tuple[tuple[str, str], ...]

V2_TO_V1: Table = (
    ("encoder.input_proj.#.conv.", "encoder.input_proj.#.0."),
    ("encoder.input_proj.#.norm.", "encoder.input_proj.#.1."),
    ("decoder.enc_output.proj.", "decoder.enc_output.0."),
    ("decoder.enc_output.norm.", "decoder.enc_output.1."),
)
V2_ONLY = ("decoder.anchors", "decoder.valid_mask", ".num_points_scale")  # constants that v1 files do not store

_BLOCK, _HF_BLOCK = "backbone.res_layers.#.blocks.#.", "model.backbone.model.encoder.stages.#.layers.#."
_PARTS = (("conv.", "convolution."), ("norm.", "normalization."))
_ENCODER_LAYER, _HF_ENCODER_LAYER = "encoder.encoder.#.layers.#.", "model.encoder.encoder.#.layers.#."
_DECODER_LAYER, _HF_DECODER_LAYER = "decoder.decoder.layers.#.", "model.decoder.layers.#."

_STEM, _HF_STEM = "backbone.stem.stem", "model.backbone.model.embedder.stem"  # in HGNetv2
_HG_STAGE, _HF_HG_STAGE = "backbone.stages.#.", "model.backbone.model.encoder.stages.#."
_HG_PARTS = (("conv.", "convolution."), ("bn.", "normalization."), ("lab.", "lab."))
_HG_LAYER = "blocks.#.layers.#."
_HG_UNITS = (
    ("downsample.", "downsample."),
    *((f"{_HG_LAYER}{conv}", f"{_HG_LAYER}{conv}") for conv in ("conv1.", "conv2.", "")),
    ("blocks.#.aggregation_squeeze_conv.", "blocks.#.aggregation.0."),
    ("blocks.#.aggregation_excitation_conv.", "blocks.#.aggregation.1."),
)

V2_TO_HUGGINGFACE: Table = (
    *((f"{_STEM}{n}.conv.1.", f"{_HF_STEM}{n}.convolution.") for n in ("2a", "2b")),
    *(
        (f"{_STEM}{n}.{ours}", f"{_HF_STEM}{n}.{theirs}")
        for n in ("1", "2a", "2b", "3", "4")
        for ours, theirs in _HG_PARTS
    ),
    *(
        (f"{_HG_STAGE}{unit}{ours}", f"{_HF_HG_STAGE}{their_unit}{theirs}")
        for unit, their_unit in _HG_UNITS
        for ours, theirs in _HG_PARTS
    ),
    *(
        (f"backbone.conv1.conv1_{n + 1}.{ours}", f"model.backbone.model.embedder.embedder.{n}.{theirs}")
        for n in range(3)
        for ours, theirs in _PARTS
    ),
    *((f"{_BLOCK}short.conv.{ours}", f"{_HF_BLOCK}shortcut.1.{theirs}") for ours, theirs in _PARTS),
    *((f"{_BLOCK}short.{ours}", f"{_HF_BLOCK}shortcut.{theirs}") for ours, theirs in _PARTS),
    *(
        (f"{_BLOCK}branch2{letter}.{ours}", f"{_HF_BLOCK}layer.{n}.{theirs}")
        for n, letter in enumerate("abc")
        for ours, theirs in _PARTS
    ),
    ("encoder.input_proj.#.conv.", "model.encoder_input_proj.#.0."),
    ("encoder.input_proj.#.norm.", "model.encoder_input_proj.#.1."),
    (f"{_ENCODER_LAYER}self_attn.", f"{_HF_ENCODER_LAYER}self_attn."),
    (f"{_ENCODER_LAYER}linear1.", f"{_HF_ENCODER_LAYER}fc1."),
    (f"{_ENCODER_LAYER}linear2.", f"{_HF_ENCODER_LAYER}fc2."),
    (f"{_ENCODER_LAYER}norm1.", f"{_HF_ENCODER_LAYER}self_attn_layer_norm."),
    (f"{_ENCODER_LAYER}norm2.", f"{_HF_ENCODER_LAYER}final_layer_norm."),
    *((f"encoder.{part}.", f"model.encoder.{part}.") for part in ("lateral_convs", "fpn_blocks")),
    *((f"encoder.{part}.", f"model.encoder.{part}.") for part in ("downsample_convs", "pan_blocks")),
    ("decoder.input_proj.#.conv.", "model.decoder_input_proj.#.0."),
    ("decoder.input_proj.#.norm.", "model.decoder_input_proj.#.1."),
    (f"{_DECODER_LAYER}self_attn.", f"{_HF_DECODER_LAYER}self_attn."),
    (f"{_DECODER_LAYER}cross_attn.num_points_scale", f"{_HF_DECODER_LAYER}encoder_attn.n_points_scale"),
    (f"{_DECODER_LAYER}cross_attn.", f"{_HF_DECODER_LAYER}encoder_attn."),
    (f"{_DECODER_LAYER}norm1.", f"{_HF_DECODER_LAYER}self_attn_layer_norm."),
    (f"{_DECODER_LAYER}norm2.", f"{_HF_DECODER_LAYER}encoder_attn_layer_norm."),
    (f"{_DECODER_LAYER}norm3.", f"{_HF_DECODER_LAYER}final_layer_norm."),
    (f"{_DECODER_LAYER}linear1.", f"{_HF_DECODER_LAYER}fc1."),
    (f"{_DECODER_LAYER}linear2.", f"{_HF_DECODER_LAYER}fc2."),
    ("decoder.denoising_class_embed.", "model.denoising_class_embed."),
    ("decoder.query_pos_head.", "model.decoder.query_pos_head."),
    ("decoder.enc_output.proj.", "model.enc_output.0."),
    ("decoder.enc_output.norm.", "model.enc_output.1."),
    ("decoder.enc_score_head.", "model.enc_score_head."),
    ("decoder.enc_bbox_head.", "model.enc_bbox_head."),
    ("decoder.dec_score_head.", "model.decoder.class_embed."),
    ("decoder.dec_bbox_head.", "model.decoder.bbox_embed."),
)
# names that transformers uses in memory since version 5, and the names in its files
_HF_NEW_TO_OLD = (
    ("model.encoder.aifi.", "model.encoder.encoder."),
    (".self_attn.o_proj.", ".self_attn.out_proj."),
    (".mlp.fc", ".fc"),
)
_HF_TIED = (("class_embed.", "model.decoder.class_embed."), ("bbox_embed.", "model.decoder.bbox_embed."))
_HF_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def version_of(keys: Iterable[str]) -> Literal["v1", "v2"] | None:
    """Return whether official names are "v1" or "v2"; None if neither."""
    keys = set(keys)
    if "encoder.input_proj.0.conv.weight" in keys:
        return "v2"
    return "v1" if "encoder.input_proj.0.0.weight" in keys else None


def to_version(state: State, version: str) -> State:
    """Return the entries under the names of another version; for v1, constants that it does not store are dropped."""
    if version_of(state) in (None, version):
        return dict(state)
    if version == "v2":
        return {_rename(key, V2_TO_V1, backwards=True) or key: value for key, value in state.items()}
    kept = {key: value for key, value in state.items() if not key.endswith(V2_ONLY)}
    return {_rename(key, V2_TO_V1) or key: value for key, value in kept.items()}


def is_huggingface(keys: Iterable[str]) -> bool:
    """Return whether the names are those of transformers' RTDetr or RTDetrV2."""
    return any(key.startswith("model.") for key in keys)


def to_huggingface(state: State) -> State:
    """Return official entries, v1 or v2, under transformers' names (those of its files).

    Raises:
        WeightsError: an entry does not exist in transformers' model.
    """
    result: State = {}
    for key, value in to_version(state, "v2").items():
        if key in V2_ONLY:
            continue
        renamed = _rename(key, V2_TO_HUGGINGFACE)
        if renamed is None:
            raise WeightsError(f"transformers has no entry for {key!r}. Save as .pth instead")
        head, stacked, kind = renamed.partition(".in_proj_")
        if not stacked:
            result[renamed] = value
            continue
        for name, part in zip(_HF_PROJECTIONS, value.chunk(3), strict=True):
            result[f"{head}.{name}.{kind}"] = part.clone()
    return result


def from_huggingface(state: State) -> State:
    """Return transformers' entries under official v2 names; tied copies are dropped.

    Raises:
        WeightsError: a name does not belong to RTDetr or RTDetrV2, or an attention projection is missing.
    """
    result: State = {}
    projections: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, value in _in_file_names(state).items():
        head, _, kind = key.rpartition(".")
        name = head.rpartition(".")[2]
        renamed = _rename(key, V2_TO_HUGGINGFACE, backwards=True)
        if renamed is None:
            unknown.append(key)
        elif name in _HF_PROJECTIONS:
            stacked = renamed.removesuffix(f".{name}.{kind}") + f".in_proj_{kind}"
            projections.setdefault(stacked, {})[name] = value
            result[stacked] = value  # keeps the order; the value is set below
        else:
            result[renamed] = value
    if unknown:
        raise WeightsError(
            f"not an RT-DETR checkpoint: {counted(len(unknown), 'unknown entry')}, such as "
            f"{', '.join(sorted(unknown)[:3])}"
        )
    for stacked, parts in projections.items():
        if set(parts) != set(_HF_PROJECTIONS) or len({part.shape for part in parts.values()}) > 1:
            raise WeightsError(f"{stacked}: expected q_proj, k_proj and v_proj of one shape, got {sorted(parts)}")
        result[stacked] = torch.cat([parts[name] for name in _HF_PROJECTIONS])
    return result


def _in_file_names(state: State) -> State:
    """Undo differences between transformers versions: in-memory names and tied copies at the top level."""
    result: State = {}
    for key, value in state.items():
        for new, old in _HF_NEW_TO_OLD:
            key = key.replace(new, old)
        result[key] = value
    for tied, original in _HF_TIED:
        for key in [key for key in result if key.startswith(tied)]:
            copied = result.pop(key)
            result.setdefault(original + key.removeprefix(tied), copied)
    return result


def _rename(key: str, table: Table, *, backwards: bool = False) -> str | None:
    """Translate a name; return None if no row fits."""
    for pattern, replacement in _compiled(table, backwards):
        if match := pattern.match(key):
            for number in match.groups():
                replacement = replacement.replace("#", number, 1)
            return replacement + key[match.end() :]
    return None


@functools.cache
def _compiled(table: Table, backwards: bool) -> list[tuple[re.Pattern[str], str]]:
    pairs = [(right, left) if backwards else (left, right) for left, right in table]
    return [(re.compile(re.escape(source).replace(r"\#", r"(\d+)")), target) for source, target in pairs]
