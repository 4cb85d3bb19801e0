"""Identify the model of a checkpoint from the names and shapes of its entries.

`observe` reads the facts from a checkpoint, `expect` returns the same facts for a configuration; a checkpoint fits a
configuration if the facts agree. Settings that are not visible in the entries (sampling method, evaluated layer,
denoising noise) come from the zoo model that fits, or else from the defaults.
"""

import re
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from rtdetr import zoo
from rtdetr.config import STRIDE, DecoderConfig, EncoderConfig, HGNetv2Config, ModelConfig, PResNetConfig, SizeHW
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.models.decoder import level_sizes
from rtdetr.models.hgnetv2 import SHAPES
from rtdetr.models.positions import make_anchors
from rtdetr.models.presnet import BLOCKS
from rtdetr.weights.names import State, to_version, version_of
from rtdetr.wording import counted

STEMS = ("backbone.conv1.conv1_1.conv.weight", "backbone.stem.stem1.conv.weight")
_FIELDS = {  # settings visible in the facts, in the same order
    "backbone": {
        "presnet": ("kind", "depth", "blocks", "base_width"),
        "hgnetv2": ("kind", "size", "size", "use_lab"),
    },
    "encoder": ("width", "feedforward", "num_layers", "expansion", "num_blocks"),
    "decoder": ("width", "feedforward", "num_layers", "num_heads", "num_points"),
    "points per level": ("decoder.num_points",),
    "query position head": ("decoder.query_pos_widths",),
    "learned queries": ("decoder.learned_queries",),
    "class-agnostic query selection": ("decoder.query_selection",),
}
_PARTS = {  # what the values of a fact are, in words
    "backbone": ("kind", "block", "blocks per stage", "base width or use_lab"),
    "encoder": ("width", "feedforward width", "layers", "fusion width", "blocks per fusion"),
    "decoder": ("width", "feedforward width", "layers", "points of all heads", "levels"),
}
WIDE = (torch.float32, torch.float64)  # types that are precise enough for the constants
Facts = dict[str, Any]


class Observation(NamedTuple):
    """Facts visible in a checkpoint. `facts` determine the network except for the numbers of classes and channels.

    frozen_norms: whether the backbone's batch norms are frozen; None if the file has no batch counters.
    eval_size_hw: input size of the stored anchors; None without anchors.
    """

    version: Literal["v1", "v2"]
    facts: Facts
    num_classes: int
    in_channels: int
    frozen_norms: bool | None
    eval_size_hw: SizeHW | None


def observe(state: State) -> Observation:
    """Read the facts from a checkpoint with official names, v1 or v2.

    Raises:
        WeightsError: the entries are not those of an RT-DETR.
    """
    version = version_of(state)
    if version is None:
        found = ", ".join(list(state)[:3]) or "nothing"
        raise WeightsError(f"not an RT-DETR checkpoint: expected an entry 'encoder.input_proj.0...', got {found}")
    state = to_version(state, "v2")
    try:
        facts = {**_backbone(state), **_encoder(state), **_decoder(state)}
        classes = state["decoder.dec_score_head.0.weight"].shape[0]
        selection = state["decoder.enc_score_head.weight"].shape[0]
        if classes != 1:  # with one class, both kinds of query selection look the same
            facts["class-agnostic query selection"] = selection == 1
        channels = _stem(state).shape[1]
        points = facts.get("points per level")
        anchors = state.get("decoder.anchors")
        size = (
            None if anchors is None else anchors_size(anchors, facts["decoder"][-1] if points is None else len(points))
        )
    except (KeyError, IndexError, ValueError, StopIteration) as error:
        raise WeightsError(f"not a complete RT-DETR checkpoint: missing or misshapen entry ({error})") from None
    return Observation(version, facts, classes, channels, _frozen_norms(state), size)


def expect(config: ModelConfig) -> Facts:
    """Return the facts that are visible in a checkpoint of this configuration."""
    backbone, encoder, decoder = config.backbone, config.encoder, config.decoder
    network: Facts = {"backbone": (backbone.kind,)}  # other kinds are not visible in the entries
    if isinstance(backbone, HGNetv2Config):
        (mid, out), shapes = SHAPES[backbone.size]
        blocks = tuple(shape.num_blocks for shape in shapes)
        network = {"backbone": ("HGNetv2", (mid, out), blocks, backbone.use_lab)}
    elif isinstance(backbone, PResNetConfig):
        kind = "basic" if backbone.depth < 50 else "bottleneck"
        blocks = backbone.blocks or BLOCKS[backbone.depth]
        network = {"backbone": ("PResNet", kind, tuple(blocks), backbone.base_width)}
    fusion = int(encoder.width * encoder.expansion)
    weights = decoder.num_heads * sum(decoder.num_points)
    return {
        **network,
        "encoder": (encoder.width, encoder.feedforward, encoder.num_layers, fusion, encoder.num_blocks),
        "decoder": (decoder.width, decoder.feedforward, decoder.num_layers, weights, len(decoder.num_points)),
        "points per level": tuple(decoder.num_points),
        "query position head": tuple(decoder.query_pos_widths or (2 * decoder.width,)),
        "learned queries": decoder.num_queries if decoder.learned_queries else None,
        "class-agnostic query selection": decoder.query_selection == "agnostic",
    }


def differences(observed: Facts, config: ModelConfig) -> list[str]:
    """Return the facts of a checkpoint that contradict a configuration, as "decoder width 128 instead of 256"."""
    expected, found = expect(config), []
    for fact, value in observed.items():
        wanted = expected[fact]
        if value == wanted:
            continue
        if fact not in _PARTS or len(value) != len(wanted):
            found.append(f"{fact} {value} instead of {wanted}")
        elif fact == "backbone" and value[0] != wanted[0]:
            found.append(f"{fact} {value[0]} instead of {wanted[0]}")
        else:
            parts = zip(_PARTS[fact], value, wanted, strict=True)
            found += [f"{fact} {part} {one} instead of {other}" for part, one, other in parts if one != other]
    return found


def contradicted_fields(observed: Facts, config: ModelConfig) -> list[str]:
    """Return the dotted names of the settings that contradict a checkpoint."""
    expected, found = expect(config), []
    for fact, value in observed.items():
        fields: Any = _FIELDS[fact]
        if fact == "backbone":
            fields = fields.get(config.backbone.kind, ("backbone.kind",))
        if len(fields) == 1:
            found += fields if value != expected[fact] else ()
        else:
            found += [f"{fact}.{name}" for name, a, b in zip(fields, value, expected[fact], strict=True) if a != b]
    return list(dict.fromkeys(found))


def identify(observation: Observation, *, hint: str = "", sampling: str | None = None) -> ModelConfig:
    """Return the configuration of a checkpoint: that of a zoo model if one fits, or else one built from the facts.

    If several zoo models fit, such as a model and its variant with discrete sampling, the file name decides, then the
    order of the zoo.

    Args:
        observation: result of `observe`.
        hint: the file name; a zoo name in it decides between models that look the same.
        sampling: "bilinear" or "discrete", if known.

    Raises:
        WeightsError: the facts contradict each other.
    """
    fitting = candidates(observation)
    if sampling is not None:
        fitting = [config for config in fitting if config.decoder.sampling == sampling]
    named = [config for config in fitting if config.name in hint]
    try:
        if named:
            config = max(named, key=lambda config: len(config.name))
        else:
            config = fitting[0] if fitting else _custom(observation)
        config = adapt(config, observation)
        frozen = observation.frozen_norms
        if frozen is not None and frozen != config.backbone.freeze_norm:
            config = config.replace(backbone={"freeze_norm": frozen})
        return config.replace(decoder={"sampling": sampling}) if sampling is not None else config
    except (ConfigError, ZeroDivisionError) as error:
        raise WeightsError(f"not an RT-DETR checkpoint that can be built: {error}") from None


def is_named(observation: Observation, hint: str) -> bool:
    """Return whether a file name contains the name of a zoo model that fits."""
    return any(config.name in hint for config in candidates(observation))


def candidates(observation: Observation) -> list[ModelConfig]:
    """Return the zoo models with these facts, in the order of the zoo."""
    configs = [zoo.model_config(name) for name in zoo.list_models()]
    return [c for c in configs if c.version == observation.version and not differences(observation.facts, c)]


def adapt(config: ModelConfig, observation: Observation) -> ModelConfig:
    """Return a configuration with the class count, image channels and anchor size of a checkpoint."""
    changes: dict[str, Any] = {"num_classes": observation.num_classes, "in_channels": observation.in_channels}
    if observation.eval_size_hw is not None:
        changes["eval_size_hw"] = observation.eval_size_hw
    return config.replace(**changes)


def anchors_size(anchors: Tensor, levels: int) -> SizeHW | None:
    """Return the input size (height, width) of stored anchors; None if no size gives them."""
    if anchors.ndim != 3 or anchors.shape[0] != 1 or anchors.shape[2] != 4:
        return None
    count = anchors.shape[1]
    for size in _sizes_of_count(count, levels):
        fresh, valid = make_anchors(level_sizes(size, levels), anchors.device)
        close = (anchors.to(fresh.dtype) - fresh).abs() < 0.05  # EMA and 16-bit types change anchors by less
        if torch.equal(anchors.isfinite().all(-1, keepdim=True), valid) and bool(close[valid.expand_as(close)].all()):
            return size
    return None


def _sizes_of_count(count: int, levels: int) -> list[SizeHW]:
    """Return input sizes, multiples of 32, with this number of tokens, squarest first."""
    sizes = []
    most = count // 21  # at most as many cells in the stride-32 map; the two finer maps have 4 and 16 times as many
    for rows in range(1, most + 1):
        for columns in range(most // rows, 0, -1):
            size = (STRIDE * rows, STRIDE * columns)
            tokens = sum(height * width for height, width in level_sizes(size, levels))
            if tokens == count:
                sizes.append(size)
            if tokens <= count:
                break
    return sorted(sizes, key=lambda size: abs(size[0] - size[1]))


def _count(state: State, pattern: str) -> int:
    """Count the distinct values of the first group of `pattern` among the names."""
    compiled = re.compile(pattern)
    return len({match.group(1) for key in state if (match := compiled.match(key))})


def _backbone(state: State) -> Facts:
    if STEMS[1] in state:
        stages = range(_count(state, r"backbone\.stages\.(\d+)\."))
        blocks = tuple(_count(state, rf"backbone\.stages\.{i}\.blocks\.(\d+)\.") for i in stages)
        stem = (state[STEMS[1]].shape[0], state["backbone.stem.stem4.conv.weight"].shape[0])
        return {"backbone": ("HGNetv2", stem, blocks, any(".lab." in key for key in state))}
    if not any(key.startswith("backbone.res_layers.") for key in state):
        return {}  # a backbone of another kind, known only from the description of the checkpoint
    stages = range(_count(state, r"backbone\.res_layers\.(\d+)\."))
    blocks = tuple(_count(state, rf"backbone\.res_layers\.{i}\.blocks\.(\d+)\.") for i in stages)
    kind = "bottleneck" if "backbone.res_layers.0.blocks.0.branch2c.conv.weight" in state else "basic"
    return {"backbone": ("PResNet", kind, blocks, state["backbone.conv1.conv1_3.conv.weight"].shape[0])}


def _stem(state: State) -> Tensor:
    """The weights of the first convolution."""
    known = next((state[key] for key in STEMS if key in state), None)
    first = (x for key, x in state.items() if key.startswith("backbone.") and x.ndim == 4)
    return next(first) if known is None else known


def _encoder(state: State) -> Facts:
    feedforward, width = state["encoder.encoder.0.layers.0.linear1.weight"].shape[:2]
    layers = _count(state, r"encoder\.encoder\.0\.layers\.(\d+)\.")
    fusion = state["encoder.fpn_blocks.0.conv1.conv.weight"].shape[0]
    blocks = _count(state, r"encoder\.fpn_blocks\.0\.bottlenecks\.(\d+)\.")
    return {"encoder": (width, feedforward, layers, fusion, blocks)}


def _decoder(state: State) -> Facts:
    layer = "decoder.decoder.layers.0."
    feedforward, width = state[layer + "linear1.weight"].shape[:2]
    layers = _count(state, r"decoder\.decoder\.layers\.(\d+)\.")
    levels = _count(state, r"decoder\.input_proj\.(\d+)\.")
    weights = state[layer + "cross_attn.attention_weights.weight"].shape[0]
    head = range(_count(state, r"decoder\.query_pos_head\.layers\.(\d+)\.") - 1)
    learned = state.get("decoder.tgt_embed.weight")
    facts: Facts = {
        "decoder": (width, feedforward, layers, weights, levels),
        "query position head": tuple(state[f"decoder.query_pos_head.layers.{i}.weight"].shape[0] for i in head),
        "learned queries": None if learned is None else learned.shape[0],
    }
    points = points_of_scale(state.get(layer + "cross_attn.num_points_scale"))
    return facts if points is None else {**facts, "points per level": points}


def points_of_scale(scale: Tensor | None) -> tuple[int, ...] | None:
    """Return the sampling points per level from the stored constant: 1/n, n times for a level of n points."""
    if scale is None or scale.ndim != 1 or not bool((scale.isfinite() & (scale > 0)).all()):
        return None
    values, points, start = scale.double().tolist(), [], 0
    while start < len(values):
        points.append(max(1, round(1 / values[start])))
        start += points[-1]
    return tuple(points) if start == len(values) else None


def _frozen_norms(state: State) -> bool | None:
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    return not any(key.startswith("backbone.") for key in counters) if counters else None


def _custom(observation: Observation) -> ModelConfig:
    """Build a configuration from facts that fit no zoo model; encoder and decoder get the same number of heads."""
    facts = observation.facts
    if "backbone" not in facts:
        raise WeightsError(
            "not an RT-DETR checkpoint that can be built: its backbone is neither ResNet-vd nor HGNetv2, and the file "
            "does not say which; name its configuration as model"
        )
    width, feedforward, layers, fusion, blocks = facts["encoder"]
    decoder_width, decoder_feedforward, decoder_layers, weights, levels = facts["decoder"]
    points = facts.get("points per level") or (weights // DecoderConfig().num_heads // levels,) * levels
    heads = weights // sum(points)
    expansion = fusion / width
    learned, hidden = facts["learned queries"], facts["query position head"]
    config = ModelConfig(
        version=observation.version,
        backbone=_custom_backbone(facts["backbone"]),
        encoder=EncoderConfig(
            width=width,
            feedforward=feedforward,
            num_layers=layers,
            num_heads=heads,
            expansion=expansion if int(width * expansion) == fusion else (fusion + 0.5) / width,
            num_blocks=blocks,
        ),
        decoder=DecoderConfig(
            width=decoder_width,
            feedforward=decoder_feedforward,
            num_layers=decoder_layers,
            num_heads=heads,
            num_points=points,
            query_selection="agnostic" if facts.get("class-agnostic query selection") else "default",
            learned_queries=learned is not None,
            num_queries=learned or DecoderConfig().num_queries,
            activation="silu" if len(hidden) > 1 else "relu",  # DEIM's three-layer head is used with SiLU
            query_pos_widths=None if hidden == (2 * decoder_width,) else hidden,
        ),
    )
    found = differences(facts, config)
    if found:
        raise WeightsError(f"not an RT-DETR checkpoint that can be built: {found[0]}")
    return config


def _custom_backbone(facts: tuple[Any, ...]) -> PResNetConfig | HGNetv2Config:
    kind, first, blocks, last = facts
    if kind == "HGNetv2":
        sizes = [size for size, (stem, _) in SHAPES.items() if stem == first]
        if not sizes:
            raise WeightsError(
                f"not an RT-DETR checkpoint that can be built: HGNetv2 with a stem of {counted(first, 'channel')}"
            )
        return HGNetv2Config.model_validate({"size": sizes[0], "use_lab": last})
    bottleneck = first == "bottleneck"
    depths = [depth for depth, usual in BLOCKS.items() if usual == blocks and (depth >= 50) == bottleneck]
    settings: dict[str, Any] = {"depth": depths[0]} if depths else {"depth": 50 if bottleneck else 18, "blocks": blocks}
    return PResNetConfig(**settings, base_width=last)
