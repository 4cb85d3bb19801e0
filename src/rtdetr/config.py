"""Settings a user can write, as frozen pydantic models: an unknown key is an error that names the nearest valid one.

`ModelConfig` describes a network (built by `rtdetr.models`), `Recipe` how it is trained (read by `rtdetr.training`).
Defaults are the published RT-DETRv2-R50 values (arXiv 2407.17140); the zoo changes only what a model changes.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from rtdetr.errors import ConfigError, nearest
from rtdetr.wording import counted

Size = Annotated[int, Field(gt=0, le=2**53)]  # what is larger is no exact float
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""What a number type is called in exports, and in PyTorch; users may write either."""


def pytorch_precision(name: Any) -> Any:
    """The name that PyTorch has for a number type; other values as they are."""
    return PRECISIONS.get(name, name) if isinstance(name, str) else name


SizeHW = tuple[Size, Size]
STRIDES = (8, 16, 32)  # of the network's three maps, pixels of its input per place
STRIDE = STRIDES[-1]  # what both sides of its input are multiples of
Side = Annotated[int, Field(gt=0, le=2**53, multiple_of=STRIDE)]  # of a network's input


def size_problem(size_hw: tuple[int, int]) -> str | None:
    """What is wrong with a size as the input of a network, on one line; None: nothing."""
    height, width = size_hw
    if height % STRIDE == 0 and width % STRIDE == 0 and height > 0 and width > 0:
        return None
    lower, upper = ([max(1, (side + more) // STRIDE) * STRIDE for side in size_hw] for more in (0, STRIDE - 1))
    nearest_ones = " and ".join(dict.fromkeys(f"{one[0]}x{one[1]}" for one in (lower, upper)))
    return f"height and width must be multiples of {STRIDE}, got {height}x{width}; the nearest are {nearest_ones}"


class Strict(BaseModel):
    """Frozen settings; every mistake becomes a `ConfigError` that says where it is and what would be valid."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    section: ClassVar[str | None] = None  # what its fields are below where a user writes them; None: the class's name

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explain(type(self), error) from None

    @model_validator(mode="before")
    @classmethod
    def _no_value(cls, values: Any) -> Any:
        """Take the word "none" for no value where a field may have none, and where it is no name or path."""
        if not isinstance(values, dict):
            return values
        kinds = {name: get_args(field.annotation) for name, field in cls.model_fields.items()}
        free = {name for name, kind in kinds.items() if type(None) in kind and str not in kind}
        return {k: None if k in free and isinstance(v, str) and v.lower() == "none" else v for k, v in values.items()}

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with some fields changed; a dict changes fields of a nested model."""
        values = self.model_dump()
        for key, value in changes.items():
            old, value = values.get(key), _with_kind(value)
            if isinstance(value, dict) and isinstance(old, dict) and value.get("kind") in (None, old.get("kind")):
                value = {**old, **value}  # of another kind, it has other fields
            values[key] = value
        return type(self)(**values)

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Self:
        """Read what `model_dump` wrote into a file.

        Raises:
            ConfigError: as for every setting, and a value of another type, such as a number written as text: a user may
                type one, no file of ours has one.
        """
        settings = cls(**{str(key): value for key, value in values.items()})
        settings.check_types(values)
        return settings

    def check_types(self, values: Mapping[str, Any]) -> None:
        """Refuse values that became these settings only because their type was changed.

        Raises:
            ConfigError: as said; it names the first one.
        """
        for path, found, setting in _retyped(values, self.model_dump(mode="json")):
            kinds = f"the {_KINDS[type(setting)]} %s, got the {_KINDS.get(type(found), 'value')} %s"
            raise _Misfit(type(self), path, f"expected {kinds % (_json(setting), _json(found))}.")


def _with_kind(value: Any) -> Any:
    """The settings of a backbone; {"timm": NAME} stands for {"kind": "timm", "timm": NAME}."""
    return {"kind": "timm", **value} if isinstance(value, dict) and "timm" in value else value


_KINDS = {
    bool: "switch",
    int: "number",
    float: "number",
    str: "text",
    list: "list",
    tuple: "list",
    dict: "object",
    type(None): "value",
}


def _retyped(found: Any, setting: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Values that differ in type from the settings that they became, with their paths."""
    if isinstance(found, Mapping) and isinstance(setting, Mapping):
        for key in [key for key in found if key in setting]:
            yield from _retyped(found[key], setting[key], f"{path}.{key}".removeprefix("."))
    elif isinstance(found, list | tuple) and isinstance(setting, list | tuple):
        for number, pair in enumerate(zip(found, setting, strict=False)):
            yield from _retyped(*pair, f"{path}.{number}".removeprefix("."))
    elif _KINDS.get(type(found)) != _KINDS[type(setting)]:
        yield path, found, setting


def _json(value: Any) -> str:
    return json.dumps(value, default=repr, ensure_ascii=False)[:100]


class _Misfit(ConfigError):
    """What is wrong with a field, and the path to it from the settings that it was met in."""

    def __init__(self, model: type[Strict], path: str, problem: str) -> None:
        section = model.__name__ if model.section is None else model.section
        where = ".".join(part for part in (section, path) if part)
        super().__init__(f"{where}: {problem}" if where else problem)
        self.path, self.problem = path, problem


def _explain(model: type[Strict], error: ValidationError) -> ConfigError:
    """The first problem pydantic found; a name that is unknown explains another that is missing."""
    problems = error.errors()
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    field, *rest = map(str, first["loc"] or ("",))
    if first["type"] == "extra_forbidden":
        known = sorted(model.model_fields)
        inner = next((path for path in _inner_fields(model) if path.rpartition(".")[2] == field), None)
        guess = f" Did you mean {inner!r}?" if inner else nearest(field, known)
        return _Misfit(model, "", f"unknown setting {field!r}.{guess} Known: {', '.join(known)}.")
    cause = (first.get("ctx") or {}).get("error")
    # what follows a field's name is a place in a list, or what pydantic calls a member of a union
    path = ".".join([field, *(part for part in rest if part.isdecimal())])
    if isinstance(cause, _Misfit):
        return _Misfit(model, ".".join(part for part in (path, cause.path) if part), cause.problem)
    if isinstance(cause, ConfigError):
        return ConfigError(f"{path}: {cause}" if path else str(cause))
    if first["type"] == "missing":
        return _Misfit(model, path, "expected a value, got none")
    wanted = [one["msg"].removeprefix("Input should be ") for one in problems if one["loc"][:1] == first["loc"][:1]]
    expected = "expected " if first["msg"] != wanted[0] else ""
    more = f" ({len(problems) - len(wanted)} more)" if len(problems) > len(wanted) else ""
    return _Misfit(
        model, path, f"{expected}{' or '.join(dict.fromkeys(wanted))}; got {repr(first.get('input'))[:200]}.{more}"
    )


def _inner_fields(model: type[Strict]) -> Iterator[str]:
    """Dotted names of the settings in the sections of a model."""
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Strict):
                yield from (f"{name}.{inner}" for inner in kind.model_fields)


class BackboneConfig(Strict):
    """What every backbone's settings have; `kind` is its name in the table of `rtdetr.models.backbones`."""

    kind: str
    freeze_at: int = Field(default=-1, ge=-1, le=4)  # -1 nothing; 0 the stem; n the stem and the first n stages
    freeze_norm: bool = False  # batch norm as constants

    @property
    def is_pretrained(self) -> bool:
        """Whether weights are fetched when a network is built."""
        return False


class PResNetConfig(BackboneConfig):
    """ResNet-vd backbone. Source: arXiv 1812.01187; widths and depths of the published models."""

    kind: Literal["presnet"] = "presnet"
    depth: Literal[18, 34, 50, 101] = 50
    blocks: tuple[Size, Size, Size, Size] | None = None  # blocks a stage; None: those of `depth`
    base_width: Size = 64  # width of the first stage; the stem has half of it, later stages double it


class HGNetv2Config(BackboneConfig):
    """PP-HGNetv2 backbone of the L, X and H models."""

    kind: Literal["hgnetv2"] = "hgnetv2"
    size: Literal["L", "X", "H"] = "L"
    use_lab: bool = False  # learnable affine block after each activation


class TimmConfig(BackboneConfig):
    """A network of timm whose `features_only` interface gives maps of strides 8, 16 and 32, such as "convnext_tiny"."""

    kind: Literal["timm"] = "timm"
    timm: str  # its name in timm; {"timm": NAME} is enough for a backbone
    pretrained: bool = False  # start from timm's weights, and normalize images as they expect it

    @property
    def is_pretrained(self) -> bool:
        """As `pretrained`."""
        return self.pretrained


class EncoderConfig(Strict):
    """Hybrid encoder: attention on the coarsest map (AIFI) and convolutional fusion over three maps (CCFF)."""

    width: Size = 256
    feedforward: Size = 1024
    num_layers: Size = 1
    num_heads: Size = 8
    expansion: float = Field(default=1.0, gt=0)  # hidden width of a fusion block over the encoder's width
    num_blocks: Size = 3  # RepVGG blocks in a fusion block
    temperature: float = Field(default=10000.0, gt=0)  # of the sine position code


class DecoderConfig(Strict):
    """Query selection, denoising queries and the deformable transformer decoder."""

    width: Size = 256
    feedforward: Size = 1024
    num_layers: Size = 6
    num_heads: Size = 8
    eval_idx: int = -1  # the layer whose output is used in eval mode; negative counts from the end
    num_queries: Size = 300
    num_points: tuple[Size, ...] = (4, 4, 4)  # sampling points a head, one number a level
    sampling: Literal["bilinear", "discrete"] = "bilinear"
    query_selection: Literal["default", "one2many", "agnostic"] = "default"
    learned_queries: bool = False
    activation: Literal["relu", "silu", "gelu"] = "relu"
    query_pos_widths: tuple[Size, ...] | None = None  # hidden widths of the query position head; None: (2 * width,)
    num_denoising: int = Field(default=100, ge=0)
    denoise_every_object: bool = False  # of an image with more than num_denoising, as published; else as many of them
    label_noise_ratio: Fraction = 0.5
    box_noise_scale: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _eval_idx_names_a_layer(self) -> Self:
        if not -self.num_layers <= self.eval_idx < self.num_layers:
            raise ConfigError(f"eval_idx {self.eval_idx} is outside the decoder's {counted(self.num_layers, 'layer')}")
        if self.width % self.num_heads:
            raise ConfigError(
                f"decoder width {self.width} must be a multiple of its {counted(self.num_heads, 'head')} (num_heads)"
            )
        return self


class ModelConfig(Strict):
    """A whole detector. What follows from another field is derived: the encoder reads the backbone's channels."""

    section = "model"

    name: str = "custom"
    version: Literal["v1", "v2"] = "v2"  # v1: RT-DETR's parameter names, no stored anchors
    num_classes: Size = 80
    in_channels: Size = 3
    pixel_mean: tuple[float, ...] | None = None  # a channel; the network itself subtracts it from its images in [0, 1]
    pixel_std: tuple[float, ...] | None = None  # and then divides by this; published models do neither
    eval_size_hw: SizeHW | None = (640, 640)  # size of the stored anchors; other sizes work as well
    backbone: Annotated[PResNetConfig | HGNetv2Config | TimmConfig, Field(discriminator="kind")] = PResNetConfig()
    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()

    @field_validator("backbone", mode="before")
    @classmethod
    def _kind_of_timm(cls, value: Any) -> Any:
        return _with_kind(value)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.eval_size_hw is not None and (problem := size_problem(self.eval_size_hw)):
            raise ConfigError(f"eval_size_hw: {problem}")
        width, heads = self.encoder.width, self.encoder.num_heads
        if width % 4 or width % heads:
            raise ConfigError(
                f"encoder width {width} must be a multiple of 4 and of its {counted(heads, 'head')} (num_heads)"
            )
        if len(self.decoder.num_points) < 3:
            raise ConfigError(f"num_points needs one number for each of the 3 levels, got {self.decoder.num_points}")
        return self

    @model_validator(mode="after")
    def _pixel_statistics_fit(self) -> Self:
        for name in ("pixel_mean", "pixel_std"):
            numbers = getattr(self, name)
            if numbers is None:
                continue
            if len(numbers) != self.in_channels or (name == "pixel_std" and min(numbers) <= 0):
                raise ConfigError(
                    f"{name} needs a number for each of the {self.in_channels} image channels, > 0 for pixel_std; "
                    f"got {numbers}"
                )
        return self


class ParameterGroup(Strict):
    """Trainable parameters whose name matches `pattern` (regex search) use these values instead of the recipe's."""

    pattern: str
    lr: float | None = None
    weight_decay: float | None = None


class LossConfig(Strict):
    """Weights and shape of the objective. Source: arXiv 2304.08069 section 4; MAL: arXiv 2412.04234."""

    classification: Literal["vfl", "focal", "mal"] = "vfl"
    classification_weight: float = 1.0
    bbox_weight: float = 5.0
    giou_weight: float = 2.0
    alpha: float = 0.75
    gamma: float = 2.0
    boxes_weight_format: Literal["iou", "giou"] | None = None
    share_matched_indices: bool = False
    match_class_cost: float = 2.0
    match_bbox_cost: float = 5.0
    match_giou_cost: float = 2.0
    match_alpha: float = 0.25
    match_gamma: float = 2.0


class Recipe(Strict):
    """How a model is trained. Defaults: the published RT-DETRv2 values common to every size."""

    section = "train"

    epochs: Size = 72
    batch_size: Size = 16  # over all processes
    accumulate: Size = 1  # parts that a process's share of a batch is worked on in, one after the other, to save memory
    lr: float = Field(default=1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=1e-4, ge=0)
    grouping: Literal["patterns", "modules"] = "patterns"  # "modules": norms, biases, embeddings undecayed, by type
    groups: tuple[ParameterGroup, ...] = ()  # for grouping "patterns"
    backbone_lr: float | None = Field(default=None, gt=0)  # for grouping "modules"; None: that of the rest
    clip_max_norm: float = Field(default=0.1, ge=0)  # 0: no clipping
    schedule: Literal["constant", "steps", "flat_cosine"] = "constant"
    milestones: tuple[Size, ...] = ()  # steps: epochs from which on the rate is multiplied with milestone_factor
    milestone_factor: float = Field(default=0.1, gt=0, le=1)
    milestones_after_warmup: bool = False  # as published: epochs that end during warm-up do not count for milestones
    warmup_iterations: int = Field(default=2000, ge=0)
    flat_epochs: int | None = None  # flat_cosine: epochs before the cosine begins
    no_augmentation_epochs: int = Field(default=0, ge=0)  # flat_cosine: epochs at the end with the final rate
    final_lr_factor: float = Field(default=0.5, ge=0, le=1)  # flat_cosine: what the cosine ends at
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)
    ema_warmup: int = Field(default=2000, ge=0)
    augmentation_start_epoch: int = Field(default=0, ge=0)  # before this epoch: as from augmentation_stop_epoch on
    augmentation_stop_epoch: int | None = 71  # from this epoch on: no color, zoom-out or crop; None: never stops
    flip: Fraction = 0.5  # chance that left and right are exchanged, at all epochs; 0 where it matters, as with text
    mosaic: Fraction = 0.0  # chance that a sample is put together of 4 images, instead of zoom-out and crop
    mixup: Fraction = 0.0  # chance that the images of a batch are blended, each with another one and its objects
    mixing_stop_epoch: int | None = None  # no mosaic and mixup from this epoch on; None: until augmentation stops
    multiscale_sizes: tuple[Side, ...] = (480, 512, 544, 576, 608, 640, 640, 640, 672, 704, 736, 768, 800)
    multiscale_stop_epoch: int | None = 71
    train_size_hw: tuple[Side, Side] = (640, 640)
    precision: Annotated[Literal["float32", "bfloat16", "float16", "auto"], BeforeValidator(pytorch_precision)] = "auto"
    non_finite: Literal["stop", "skip"] = "stop"  # a loss that is not finite ends the run, or its batch is left out
    sync_batch_norm: bool = True  # batch statistics over all processes; where there is one process, nothing changes
    gradient_checkpointing: bool = False  # less memory for more time: activations are computed a second time
    compile: bool = False  # torch.compile
    loss: LossConfig = LossConfig()
    tuning_from: str | None = None  # zoo name whose weights the run starts from


class TrainConfig(Strict):
    """The final settings of a training run (`rtdetr.recipes.resolve`). Saved as config.json beside its results."""

    section = ""

    data: str | tuple[str, ...]  # dataset folders or annotation files
    images: str | None = None  # folder of the training images, where it is not in a usual place
    val_data: str | tuple[str, ...] | None = None  # datasets that are evaluated; None: the validation part of `data`
    val_images: str | None = None
    data_origins: dict[str, str] = {}  # of these four: the argument or file that each was named by
    bad_boxes: Literal["error", "drop"] = "error"  # what to do with boxes that have no area inside their image
    bad_images: Literal["error", "skip"] = "error"  # what to do with images that cannot be read; skip: show others
    max_pixels: Size | None = None  # of an image; None: RTDETR_MAX_PIXELS, or what Pillow allows, about 179 million
    model: str  # name in the zoo, or of `network`
    in_channels: Size | None = None  # of the images: 3 RGB, 1 gray, other numbers as stored; None: the model's
    network: ModelConfig | None = None  # a model that is not in the zoo; its number of classes follows the data
    output_dir: str
    recipe: Recipe
    recipe_name: str = "published"  # where `recipe` comes from: published, finetune, deim, a file, ...
    weights: str | None = None  # zoo name or file whose weights the run starts from; None: fresh ones
    labels_are_ids: bool = False  # class rows of `weights` or a checkpoint to resume, if unnamed, are category ids
    backbone_weights: str | None = None  # "auto": the model's ImageNet file; a file; None: fresh ones
    freeze: Literal["backbone", "encoder"] | Annotated[int, Field(ge=0, le=4)] | None = None  # 2: stem and two stages
    balance: bool = False  # rare classes are drawn more often
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1"
    deterministic: bool = False  # bit-equal repetition on the same machine, slower
    rehearsal: bool = True  # before the first step, one that is thrown away, with the largest images and most objects
    channels_last: bool = True  # memory layout of images and convolutions: faster, the same up to rounding
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=4, ge=0)  # processes that load and augment; 0: in the training process
    evaluate_every: int = Field(default=1, ge=0)  # epochs between evaluations, the last epoch always; 0: never
    best_metric: str = "ap"  # number of an evaluation that best.pth has the largest of
    early_stopping: Size | None = None  # evaluations without a better one after which the run ends; None: never
    keep_last: Size = 1  # checkpoints kept beside best.pth: last.pth and the ones before it
    save_every: int = Field(default=1000, ge=0)  # steps between the checkpoints within an epoch; 0: at its end only
    log_every: Size = 50  # steps between the rows of metrics.jsonl
    loggers: tuple[Literal["wandb", "mlflow"], ...] = ()  # experiment trackers to report to as well
    font: str | None = None  # font file for class names in pictures, for the letters that it has
