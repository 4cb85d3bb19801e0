"""Builds what a run needs from its settings: datasets, model with its first weights, optimiser, average, loader."""

import logging
import random
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from rtdetr import zoo
from rtdetr.categories import Categories
from rtdetr.config import ModelConfig, Recipe, TrainConfig
from rtdetr.data import DetectionDataset, TrainLoader, open_dataset
from rtdetr.data.pipelines import Pipeline
from rtdetr.data.sampling import epoch_length, repeat_factors
from rtdetr.data.schedule import plan
from rtdetr.devices import choose_device, training_dtype
from rtdetr.errors import ConfigError, TrainingError, one_of
from rtdetr.evaluation import CocoMetrics
from rtdetr.files import write_atomically
from rtdetr.fonts import given_face
from rtdetr.images import allow_pixels
from rtdetr.losses import build_criterion
from rtdetr.models import RTDETR, build_model
from rtdetr.training.checkpoint import Progress, TrainingState, restore
from rtdetr.training.distributed import Processes, wrap
from rtdetr.training.ema import ModelEMA
from rtdetr.training.fingerprint import fingerprint, tell_changes, with_former_labels
from rtdetr.training.freeze import freeze
from rtdetr.training.job import Job, MakeDetector
from rtdetr.training.loggers import require
from rtdetr.training.named_recipes import fit
from rtdetr.training.optimizer import build_optimizer
from rtdetr.training.plan import SplitCounts, describe, estimate_memory
from rtdetr.training.recompute import recompute_activations
from rtdetr.weights import default_categories, load_backbone, read_checkpoint, transfer

_log = logging.getLogger(__name__)
ALONE = Processes()
METRICS = [name for name in CocoMetrics._fields if name != "per_class"]
# settings of a network that learned weights depend on and do not show
_UNSEEN = ("encoder.num_heads", "encoder.temperature", "decoder.num_heads", "pixel_mean", "pixel_std")
LAST_FILE, BEST_FILE, CONFIG_FILE, PLAN_FILE = "last.pth", "best.pth", "config.json", "plan.txt"


class GivenData(NamedTuple):
    """Datasets that are Python objects; None: the path in the settings."""

    train: Any
    val: Any


def prepare(
    config: TrainConfig,
    *,
    make_detector: MakeDetector,
    resume: Mapping[str, Any] | None = None,
    processes: Processes = ALONE,
    transforms: Pipeline | None = None,
    given: GivenData | None = None,
    dry_run: bool = False,
) -> Job:
    """Build a run, and bring it to where the checkpoint `resume` was saved; in a dry run without fetching weights.

    Raises:
        ConfigError, DatasetError, InputError, WeightsError: what was asked for cannot be done.
        TrainingError: the output folder cannot be written.
    """
    one_of("best_metric", config.best_metric, METRICS)
    for name in config.loggers:
        require(name)
    if config.font is not None:
        given_face(config.font)
    device = _choose_device(config.device, processes)
    if config.max_pixels is not None:
        allow_pixels(config.max_pixels)
    say = _log.warning if processes.is_main else lambda _: None
    datasets = _open_data(config, given)
    if resume is not None:
        datasets = with_former_labels(resume, datasets, say=say)
    train_data, val_data = datasets["train"], datasets.get("val")
    fingerprints = {part: fingerprint(dataset) for part, dataset in datasets.items()}
    factors = repeat_factors(train_data.annotations) if config.balance else None
    shown = epoch_length(factors, num_images=len(train_data))
    config = fit(config, num_images=shown, class_names=train_data.categories.names)
    recipe = config.recipe
    dtype = training_dtype(device, recipe.precision)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(config.seed)
    model = _build_model(config, train_data.categories).to(device)
    if resume is None:  # else the weights come from the checkpoint
        _start_from(config, model, train_data.categories, dry_run=dry_run)
    if config.freeze is not None:
        freeze(model, config.freeze)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    loader = TrainLoader(
        train_data,
        recipe,
        seed=config.seed,
        num_workers=config.workers,
        device=device,
        rank=processes.rank,
        world_size=processes.world_size,
        num_channels=model.config.in_channels,
        transforms=transforms,
        balance=config.balance,
    )
    description = ""
    if processes.is_main:
        description = describe(
            config,
            model=model,
            train=SplitCounts.of(train_data),
            val=None if val_data is None else SplitCounts.of(val_data),
            steps_per_epoch=len(loader),
            memory=estimate_memory(model, recipe, dtype=dtype, world_size=processes.world_size),
            device=f"{device}" if processes.world_size == 1 else f"{device}, {processes.world_size} processes",
            dtype=dtype,
        )
    ema = ModelEMA(model, decay=recipe.ema_decay, warmup=recipe.ema_warmup)
    if processes.world_size > 1 and recipe.sync_batch_norm and device.type == "cuda":
        model = cast(RTDETR, torch.nn.SyncBatchNorm.convert_sync_batchnorm(model))
    if recipe.compile:
        model.backbone.compile()
        model.encoder.compile()
    if recipe.gradient_checkpointing:
        recompute_activations(model)
    state = TrainingState(
        model=model,
        ema=ema,
        optimizer=build_optimizer(model, recipe),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        progress=Progress(batches_per_epoch=len(loader)),
    )
    criterion = build_criterion(model.config, loss=recipe.loss)
    folder = Path(config.output_dir)
    if processes.rank:
        torch.manual_seed(config.seed + processes.rank)  # each process draws its own denoising noise
    if resume is not None:
        restore(resume, state, rank=processes.rank)
        _warn_of_other_processes(len(resume.get("rng", [])), processes)
        tell_changes(resume, fingerprints, say=say)
    _check_agreement(processes, state.progress, train_data, fingerprints)
    if processes.is_main:
        if transforms is not None and not any(plan(recipe, epoch).strong for epoch in range(recipe.epochs)):
            _log.warning("the transforms are not used: no epoch of this recipe is augmented (augmentation_stop_epoch)")
        if train_data.annotations.iscrowd.all():
            _log.warning("%s has no objects to train on", train_data.annotations_file)
        _warn_of_short_run(recipe, len(loader))
        _open_folder(folder, config, is_new=resume is None, description=description)
    return Job(
        config=config,
        folder=folder,
        device=device,
        dtype=dtype,
        train_data=train_data,
        val_data=val_data,
        loader=loader,
        criterion=criterion,
        make_detector=make_detector,
        state=state,
        processes=processes,
        network=wrap(model, processes, device),
        log=_log,
        description=description,
        fingerprints=fingerprints,
    )


def _check_agreement(
    processes: Processes, progress: Progress, data: DetectionDataset, fingerprints: Mapping[str, torch.Tensor]
) -> None:
    """See that all processes stand at the same step of the same data: machines may hold different files.

    Raises:
        ConfigError: they do not.
    """
    place = {"epoch": progress.epoch, "batch": progress.batch, "step": progress.iteration}
    content = {part: int(rows.sum()) for part, rows in fingerprints.items()}  # wraps around
    found = processes.gather_all({**place, "images": len(data), "classes": len(data.categories), "content": content})
    if any(one != found[0] for one in found):
        rank = next(rank for rank, one in enumerate(found) if one != found[0])
        raise ConfigError(
            f"the processes differ: process 0 has {found[0]}, process {rank} has {found[rank]}. Every machine needs "
            "the same dataset, and for --resume the same checkpoint: use a shared folder, or copy both"
        )


def _choose_device(name: str, processes: Processes) -> torch.device:
    """The device of a name; among several processes of a machine, each has the GPU of its number."""
    device = choose_device(name)
    if device.type == "cuda" and processes.world_size > 1:
        return torch.device("cuda", processes.local_rank)
    return device


def _open_data(config: TrainConfig, given: GivenData | None) -> dict[str, DetectionDataset]:
    """The data "train" and, where it is evaluated, "val", with the same labels."""
    train, val = _open_parts(config, given)
    datasets = {"train": train} if val is None else {"train": train, "val": val}
    if config.bad_images == "skip":
        datasets = {part: dataset.skipping_bad_images() for part, dataset in datasets.items()}
    for dataset in datasets.values():
        dataset.check_pixels()
    return datasets


def _open_parts(config: TrainConfig, given: GivenData | None) -> tuple[DetectionDataset, DetectionDataset | None]:
    given = given or GivenData(None, None)
    options: dict[str, Any] = {"on_bad_box": config.bad_boxes}
    data = config.data if given.train is None else given.train
    train = open_dataset(data, split="train", images=config.images, **options)
    if config.evaluate_every == 0:
        return train, None
    val_data = config.val_data if given.val is None else given.val
    if val_data is None and not _has_parts(data):
        raise ConfigError(
            f"{train.annotations_file} has no validation part; give one with --val-data (Python: val_data), or do "
            "without: --evaluate-every 0 (Python: evaluate_every=0)"
        )
    val_data = data if val_data is None else val_data
    val = open_dataset(val_data, split="val", images=config.val_images, categories=train.categories, **options)
    return train, val


def _has_parts(data: Any) -> bool:
    """Whether a dataset may have a validation part beside the training part."""
    if isinstance(data, str):
        return Path(data).is_dir() or data.endswith((".yaml", ".yml"))
    if isinstance(data, Sequence):
        return all(map(_has_parts, data))
    return isinstance(data, Mapping)  # of parts by name, as a DatasetDict is


def _build_model(config: TrainConfig, categories: Categories) -> RTDETR:
    return build_model(
        config.network or config.model,
        num_classes=len(categories),
        in_channels=config.in_channels,
        eval_size_hw=config.recipe.train_size_hw,
    )


def _start_from(config: TrainConfig, model: RTDETR, categories: Categories, *, dry_run: bool) -> None:
    """Load the weights that the run starts from into its network."""
    published = config.recipe.tuning_from or config.model
    backbone_weights = config.backbone_weights
    if config.weights is None and backbone_weights == "auto":
        backbone_weights = zoo.backbone_url(model.config)
        if backbone_weights is None:
            raise ConfigError(f"{config.model} has no published backbone weights; give a file or leave them out")
    if dry_run and _is_fetched(config.weights or backbone_weights):
        return
    if config.weights is not None:
        loaded = read_checkpoint(config.weights, model=None if config.network else config.model)
        _check_unseen(config.weights, loaded.said, model.config)
        known = loaded.categories or default_categories(loaded.config.num_classes)
        names = None if known == Categories.numbered(len(known)) else known.names
        if names is None and len(known) == len(categories):
            _log.warning(
                "%s does not name its %d classes: its rows are taken for the classes of the data in their order",
                loaded.path,
                len(known),
            )
        report = transfer(model, loaded.state, source_names=names, target_names=categories.names)
        _log.info("weights of %s: %s", loaded.path, report)
    elif backbone_weights is not None:
        load_backbone(model, backbone_weights)
        _log.info("backbone weights of %s", backbone_weights)
    elif config.network is None and zoo.entry(published.partition(":")[0]).checkpoints:
        _log.info("starting from random weights; --weights %s starts from the published ones", published)


def _check_unseen(weights: str, said: ModelConfig | None, config: ModelConfig) -> None:
    """Refuse to start a network from weights that were trained with other settings which no entry of them shows.

    Raises:
        ConfigError: as said, with what to set.
    """
    for name in () if said is None else _UNSEEN:
        theirs, ours = (attrgetter(name)(one) for one in (said, config))
        if theirs != ours and not (theirs is None and name.startswith("pixel_")):  # unsaid: the run may set it
            value = str(list(theirs) if isinstance(theirs, tuple) else theirs).replace(" ", "")
            raise ConfigError(
                f"{weights} was trained with {name} {value}, and {config.name} has {ours}. Take it over: "
                f"--set model.{name}={value}, or leave the model's name out"
            )


def _is_fetched(source: str | None) -> bool:
    """Whether weights come over the network, or from the cache of what did."""
    if source is None or Path(source).exists():
        return False
    name = source.partition(":")[0]
    return "://" in source or (name in (*zoo.list_models(), *zoo.ALIASES) and bool(zoo.entry(name).checkpoints))


def _open_folder(folder: Path, config: TrainConfig, *, is_new: bool, description: str) -> None:
    """Create the output folder with config.json and plan.txt in it."""
    if is_new and (folder / LAST_FILE).exists():
        raise ConfigError(f"{folder} holds another run; resume that one, or choose another folder for this one")
    for name, text in ((CONFIG_FILE, config.model_dump_json(indent=1)), (PLAN_FILE, description)):
        write_atomically(
            folder / name,
            lambda temporary, text=text: temporary.write_text(text + "\n", encoding="utf-8"),
            error=TrainingError,
        )
    for leftover in folder.glob(".*.pth.*.tmp"):  # of a process that was killed while it saved
        leftover.unlink(missing_ok=True)


def _warn_of_other_processes(former: int, processes: Processes) -> None:
    if processes.is_main and former not in (0, processes.world_size):
        _log.warning(
            "the run had %d processes and has %d now: batches are shared out anew, so it goes on, but not as it would "
            "have; --processes %d or torchrun brings the former number back",
            former,
            processes.world_size,
            former,
        )


def _warn_of_short_run(recipe: Recipe, batches_per_epoch: int) -> None:
    steps = recipe.epochs * batches_per_epoch
    if recipe.warmup_iterations * 2 > steps and recipe.warmup_iterations > max(steps // 20, 1):
        _log.warning(
            "warm-up takes %d of the run's %d steps, so the learning rate stays low; train longer, or shorten it: "
            "--set train.warmup_iterations=%d",
            min(recipe.warmup_iterations, steps),
            steps,
            max(steps // 20, 1),
        )
