"""User settings as frozen pydantic models. An unknown key is an error that suggests the nearest valid one.

`ModelConfig` describes a network (built by `rtdetr.models`), `Recipe` how it is trained (read by `rtdetr.training`).
Defaults are the published RT-DETRv2-R50 values (arXiv 2407.17140); each zoo entry lists only what differs from them.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from rtdetr.errors import ConfigError
from rtdetr.strict import Strict, with_kind
from rtdetr.wording import counted

Size = Annotated[int, Field(gt=0, le=2**53)]  # larger integers are not exact as floats
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Short names of number types, as used for exports, and PyTorch's names. Users can write either."""


def pytorch_precision(name: Any) -> Any:
    """Return PyTorch's name of a number type; other values are returned unchanged."""
    return PRECISIONS.get(name, name) if isinstance(name, str) else name


SizeHW = tuple[Size, Size]
DEFAULT_SIZE_HW = (640, 640)  # network input of published models
STRIDES = (8, 16, 32)  # of the network's three feature maps, in input pixels
STRIDE = STRIDES[-1]  # input height and width are multiples of it
Side = Annotated[int, Field(gt=0, le=2**53, multiple_of=STRIDE)]  # height or width of the network input


def size_problem(size_hw: tuple[int, int]) -> str | None:
    """Return why a network cannot have this input size, on one line, or None if it can."""
    height, width = size_hw
    if height % STRIDE == 0 and width % STRIDE == 0 and height > 0 and width > 0:
        return None
    lower, upper = ([max(1, (side + more) // STRIDE) * STRIDE for side in size_hw] for more in (0, STRIDE - 1))
    nearest_ones = " and ".join(dict.fromkeys(f"{one[0]}x{one[1]}" for one in (lower, upper)))
    return f"height and width must be multiples of {STRIDE}, got {height}x{width}; the nearest are {nearest_ones}"


class BackboneConfig(Strict):
    """Settings that every backbone has; `kind` is its name in the table of `rtdetr.models.backbones`."""

    kind: str
    freeze_at: int = Field(default=-1, ge=-1, le=4)  # -1: nothing; 0: the stem; n: the stem and the first n stages
    freeze_norm: bool = False  # frozen batch norm

    @property
    def is_pretrained(self) -> bool:
        """Whether pretrained weights are downloaded when a network is built."""
        return False


class PResNetConfig(BackboneConfig):
    """ResNet-vd backbone with the widths and depths of the published models. Source: arXiv 1812.01187."""

    kind: Literal["presnet"] = "presnet"
    depth: Literal[18, 34, 50, 101] = 50
    blocks: tuple[Size, Size, Size, Size] | None = None  # blocks per stage; None: as given by `depth`
    base_width: Size = 64  # width of the first stage; the stem has half, each later stage twice as much


class HGNetv2Config(BackboneConfig):
    """PP-HGNetv2 backbone of the L, X and H models."""

    kind: Literal["hgnetv2"] = "hgnetv2"
    size: Literal["L", "X", "H"] = "L"
    use_lab: bool = False  # learnable affine block after each activation


class TimmConfig(BackboneConfig):
    """A network of timm whose `features_only` interface has maps of strides 8, 16 and 32, such as "convnext_tiny"."""

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
    expansion: float = Field(default=1.0, gt=0)  # hidden width of a fusion block, relative to the encoder's width
    num_blocks: Size = 3  # RepVGG blocks per fusion block
    temperature: float = Field(default=10000.0, gt=0)  # of the sinusoidal position encoding


class DecoderConfig(Strict):
    """Query selection, denoising queries and the deformable transformer decoder."""

    width: Size = 256
    feedforward: Size = 1024
    num_layers: Size = 6
    num_heads: Size = 8
    eval_idx: int = -1  # decoder layer used for inference; negative values count from the end
    num_queries: Size = 300  # object queries per image; can be changed after training
    num_points: tuple[Size, ...] = (4, 4, 4)  # sampling points per head, one number per level
    sampling: Literal["bilinear", "discrete"] = "bilinear"
    query_selection: Literal["default", "one2many", "agnostic"] = "default"
    learned_queries: bool = False  # learned query content instead of the selected encoder features
    activation: Literal["relu", "silu", "gelu"] = "relu"
    query_pos_widths: tuple[Size, ...] | None = None  # hidden widths of the query position head; None: (2 * width,)
    num_denoising: int = Field(default=100, ge=0)  # denoising queries per image in training; 0: none
    denoise_every_object: bool = False  # True, as published: all objects of an image with more than num_denoising
    label_noise_ratio: Fraction = 0.5
    box_noise_scale: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _eval_idx_names_a_layer(self) -> Self:
        if not -self.num_layers <= self.eval_idx < self.num_layers:
            raise ConfigError(f"eval_idx {self.eval_idx} is outside the decoder's {counted(self.num_layers, 'layer')}")
        if self.width % self.num_heads:
            raise ConfigError(f"decoder width {self.width} must be a multiple of num_heads ({self.num_heads})")
        return self


class ModelConfig(Strict):
    """A complete detector. Dependent values are derived, such as the encoder's input channels from the backbone."""

    section = "model"

    name: str = "custom"
    version: Literal["v1", "v2"] = "v2"  # v1: RT-DETR's parameter names, no stored anchors
    num_classes: Size = 80
    in_channels: Size = 3
    pixel_mean: tuple[float, ...] | None = None  # per channel; the network subtracts it from its input in [0, 1]
    pixel_std: tuple[float, ...] | None = None  # per channel; then divided by this; published models use neither
    eval_size_hw: SizeHW | None = DEFAULT_SIZE_HW  # input size of the stored anchors; other sizes work too
    backbone: Annotated[PResNetConfig | HGNetv2Config | TimmConfig, Field(discriminator="kind")] = PResNetConfig()
    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()

    @field_validator("backbone", mode="before")
    @classmethod
    def _kind_of_timm(cls, value: Any) -> Any:
        return with_kind(value)

    @property
    def size_hw(self) -> SizeHW:
        """Input size of the network, unless another is requested: the one of the stored anchors, otherwise 640x640."""
        return self.eval_size_hw or DEFAULT_SIZE_HW

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.eval_size_hw is not None and (problem := size_problem(self.eval_size_hw)):
            raise ConfigError(f"eval_size_hw: {problem}")
        width, heads = self.encoder.width, self.encoder.num_heads
        if width % 4 or width % heads:
            raise ConfigError(f"encoder width {width} must be a multiple of 4 and of num_heads ({heads})")
        if len(self.decoder.num_points) < 3:
            raise ConfigError(f"num_points needs one number per level, at least 3; got {self.decoder.num_points}")
        return self

    @model_validator(mode="after")
    def _pixel_statistics_fit(self) -> Self:
        for name in ("pixel_mean", "pixel_std"):
            numbers = getattr(self, name)
            if numbers is None:
                continue
            if len(numbers) != self.in_channels or (name == "pixel_std" and min(numbers) <= 0):
                raise ConfigError(
                    f"{name} needs one number per image channel ({self.in_channels}), > 0 for pixel_std; got {numbers}"
                )
        return self


class ParameterGroup(Strict):
    """Values for parameters with a name that matches `pattern` (regex search); None: as in the recipe."""

    pattern: str
    lr: float | None = None
    weight_decay: float | None = None


PUBLISHED_GAMMA = {"vfl": 2.0, "focal": 2.0, "mal": 1.5}  # of each classification loss


class LossConfig(Strict):
    """Loss terms, their weights, and the matching costs. Source: arXiv 2304.08069 section 4; MAL: arXiv 2412.04234."""

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


class DistillationConfig(Strict):
    """Loss terms of a teacher and their weights; 0 omits them. Sources: `rtdetr.losses.distillation`."""

    guided_weight: float = Field(default=1.0, ge=0)  # terms of the teacher's queries
    matched_weight: float = Field(default=1.0, ge=0)  # terms of the own queries that match the teacher's detections
    maps_weight: float = Field(default=0.0, ge=0)  # term of the encoder maps
    classification_weight: float = Field(default=1.0, ge=0)
    bbox_weight: float = Field(default=5.0, ge=0)
    giou_weight: float = Field(default=2.0, ge=0)
    gamma: float = Field(default=2.0, ge=0)  # classification: exponent of the difference that weighs a class
    min_score: Fraction = 0.1  # boxes of the teacher with lower scores are neither matched nor learned
    pseudo_score: Fraction | None = None  # lowest score of a pseudo-label; None: the teacher's best threshold per class


class Recipe(Strict):
    """How a model is trained. Defaults are the published RT-DETRv2 values that all model sizes share."""

    section = "train"

    epochs: Size = 72
    batch_size: Size = 16  # images per step, over all processes
    accumulate: Size = 1  # gradient accumulation: parts per batch and process; saves memory
    lr: float = Field(default=1e-4, gt=0)
    optimizer: Literal["adamw", "muon"] = "adamw"  # "muon": Muon for weight matrices, AdamW for others
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW; the first is also the momentum of Muon
    weight_decay: float = Field(default=1e-4, ge=0)
    grouping: Literal["patterns", "modules"] = "patterns"  # "modules": no weight decay for norms, biases, embeddings
    groups: tuple[ParameterGroup, ...] = ()  # used with grouping "patterns"
    backbone_lr: float | None = Field(default=None, gt=0)  # used with grouping "modules"; None: lr
    clip_max_norm: float = Field(default=0.1, ge=0)  # global gradient norm; 0: no clipping
    schedule: Literal["constant", "steps", "flat_cosine"] = "constant"
    milestones: tuple[Size, ...] = ()  # steps: epochs at which the learning rate is multiplied by milestone_factor
    milestone_factor: float = Field(default=0.1, gt=0, le=1)
    milestones_after_warmup: bool = False  # as published: epochs that end during warm-up are not counted
    warmup_iterations: int = Field(default=2000, ge=0)  # steps in which the learning rate rises
    flat_epochs: int | None = None  # flat_cosine: epochs before the cosine starts
    no_augmentation_epochs: int = Field(default=0, ge=0)  # flat_cosine: last epochs, at the final learning rate
    final_lr_factor: float = Field(default=0.5, ge=0, le=1)  # flat_cosine: final learning rate, relative to lr
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)  # exponential moving average of the weights; 0: none
    ema_warmup: int = Field(default=2000, ge=0)  # time constant of the rise to ema_decay, in steps
    augmentation_start_epoch: int = Field(default=0, ge=0)  # no color, zoom-out and crop before this epoch
    augmentation_stop_epoch: int | None = 71  # no color, zoom-out and crop from this epoch on; None: never stops
    flip: Fraction = 0.5  # probability of a horizontal flip, in all epochs; use 0 if direction matters, as for text
    mosaic: Fraction = 0.0  # probability that a sample is a mosaic of 4 images, without zoom-out and crop
    mixup: Fraction = 0.0  # probability that each image of a batch is blended with another one, objects included
    copy_paste: Fraction = 0.0  # probability that objects of another image are pasted into an image
    mixing_stop_epoch: int | None = None  # no mosaic, mixup, copy-paste from this epoch on; None: as augmentation
    zoom_in: Fraction = 0.0  # probability that a sample shows a tiny object of its image 2 to 4 times as large
    repeats: Size = 1  # times that each image of a batch is in it, augmented differently; an epoch has as many steps
    # input heights and widths to draw from for each batch; (): train_size_hw only
    multiscale_sizes: tuple[Side, ...] = (480, 512, 544, 576, 608, 640, 640, 640, 672, 704, 736, 768, 800)
    multiscale_stop_epoch: int | None = 71  # train_size_hw only from this epoch on; None: never stops
    train_size_hw: tuple[Side, Side] = DEFAULT_SIZE_HW
    precision: Annotated[Literal["float32", "bfloat16", "float16", "auto"], BeforeValidator(pytorch_precision)] = "auto"
    non_finite: Literal["stop", "skip"] = "stop"  # on a non-finite loss: end the run, or skip the batch
    sync_batch_norm: bool = True  # batch norm statistics over all processes; no effect with one process
    gradient_checkpointing: bool = False  # recompute activations: less memory, more time
    compile: bool = False  # use torch.compile
    loss: LossConfig = LossConfig()
    distillation: DistillationConfig = DistillationConfig()  # used with a teacher
    tuning_from: str | None = None  # zoo name of the weights to start from


class TrainConfig(Strict):
    """The resolved settings of a training run (`rtdetr.recipes.resolve`). Saved as config.json next to its results."""

    section = ""

    data: str | tuple[str, ...]  # dataset folders or annotation files
    images: str | None = None  # folder of the training images, if it is not in a usual place
    val_data: str | tuple[str, ...] | None = None  # datasets to evaluate on; None: the validation split of `data`
    val_images: str | None = None  # folder of the validation images, if it is not in a usual place
    data_origins: dict[str, str] = Field(
        default_factory=dict
    )  # for these four settings: the argument or file that set each
    unlabelled: str | None = None  # folder of images without annotations, which the teacher labels
    bad_boxes: Literal["error", "drop"] = "error"  # boxes with no area inside their image: stop, or drop them
    bad_images: Literal["error", "skip"] = "error"  # unreadable images: stop, or use others instead
    max_pixels: Size | None = None  # per image; None: RTDETR_MAX_PIXELS, or Pillow's limit of about 179 million
    model: str  # name of a zoo model, or of `network`
    in_channels: Size | None = None  # image channels: 3 RGB, 1 gray, others as stored; None: the model's
    network: ModelConfig | None = None  # a model that is not in the zoo; num_classes is taken from the data
    output_dir: str
    recipe: Recipe
    recipe_name: str = "published"  # origin of `recipe`: published, finetune, scratch, deim, a file, ...
    weights: str | None = None  # zoo name or file of the weights to start from; None: random weights
    labels_are_ids: bool = False  # unnamed class rows of `weights`, or of the run to resume, are category ids
    teacher: str | None = None  # zoo name or file of a trained detector that guides the training
    backbone_weights: str | None = None  # "auto" (the model's ImageNet weights) or a file; None: random weights
    freeze: Literal["backbone", "encoder"] | Annotated[int, Field(ge=0, le=4)] | None = None  # 2: stem, 2 stages
    balance: bool = False  # draw images with rare classes more often
    device: str = "auto"  # "auto", "cpu", "cuda" or "cuda:1"
    deterministic: bool = False  # bit-identical results on the same machine; slower
    rehearsal: bool = True  # first try a step with the largest images and most objects; it is discarded
    channels_last: bool = True  # memory layout of images and convolutions: faster, same results up to rounding
    seed: int = Field(default=0, ge=0)  # random seed
    workers: int = Field(default=4, ge=0)  # processes that load and augment images; 0: the training process does
    evaluate_every: int = Field(default=1, ge=0)  # epochs between evaluations, plus one after the last; 0: never
    best_metric: str = "ap"  # evaluation metric that selects best.pth; the highest value wins
    early_stopping: Size | None = None  # stop after this many evaluations without improvement; None: never
    keep_last: Size = 1  # checkpoints to keep besides best.pth: last.pth and those before it
    save_every: int = Field(default=1000, ge=0)  # steps between checkpoints within an epoch; 0: at its end only
    log_every: Size = 50  # steps between rows of metrics.jsonl
    loggers: tuple[Literal["wandb", "mlflow"], ...] = ()  # experiment trackers to log to
    font: str | None = None  # font file for class names in images; other fonts supply missing glyphs
