"""Build a run from its settings and datasets: model, starting weights, loader, optimizer and EMA."""

import logging
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from rtdetr.categories import Categories
from rtdetr.config import Recipe, TrainConfig
from rtdetr.data import DetectionDataset, TrainLoader
from rtdetr.data.pipelines import Pipeline
from rtdetr.data.schedule import plan
from rtdetr.devices import choose_device, training_dtype
from rtdetr.errors import ConfigError
from rtdetr.losses import Distillation, build_criterion
from rtdetr.models import RTDETR, build_model
from rtdetr.models.backbones import settled
from rtdetr.models.recompute import recompute_activations
from rtdetr.recipes.plan import SplitCounts, describe
from rtdetr.recipes.run_data import UNLABELLED
from rtdetr.reports.progress import Progress
from rtdetr.training.checkpoint import TrainingState
from rtdetr.training.class_rows import checkpoint_rows_are_ids, with_one_row_per_class
from rtdetr.training.distributed import Processes, wrap
from rtdetr.training.ema import ModelEMA
from rtdetr.training.fingerprint import TEACHER, Datasets, fingerprints, report_changes, with_saved_labels
from rtdetr.training.freeze import freeze
from rtdetr.training.job import Job, MakeDetector
from rtdetr.training.memory import estimate_memory
from rtdetr.training.optimizer import build_optimizer
from rtdetr.training.pseudo_labels import PseudoLabels, label, with_pseudo_labels
from rtdetr.training.pseudo_labels import describe as describe_labels
from rtdetr.training.resume import restore
from rtdetr.training.starting_weights import load_starting_weights
from rtdetr.training.teacher import Teacher, load_teacher
from rtdetr.wording import counted, have

_log = logging.getLogger(__name__)
_SHOWN_NAMES = 5
ALONE = Processes()


def prepare(
    config: TrainConfig,
    datasets: Datasets,
    *,
    make_detector: MakeDetector,
    resume: Mapping[str, Any] | None = None,
    processes: Processes = ALONE,
    transforms: Pipeline | None = None,
    dry_run: bool = False,
) -> Job:
    """Build a run, and restore the checkpoint `resume` if there is one. Nothing is written.

    Raises:
        ConfigError, DatasetError, WeightsError: settings, data or weights are invalid, or do not fit together.
    """
    device = _choose_device(config.device, processes)
    dtype = training_dtype(device, config.recipe.precision)
    say = _log.warning if processes.is_main else lambda _: None
    if resume is not None:
        datasets = with_saved_labels(resume, datasets, say=say, labels_are_ids=config.labels_are_ids)
    data_marks = fingerprints(datasets)
    categories = datasets["train"].categories
    model = _build_initial_model(config, categories, device=device, is_new=resume is None, dry_run=dry_run)
    teacher = load_teacher(config, model.config, categories, device=device, dry_run=dry_run)
    if teacher is not None:
        data_marks[TEACHER] = teacher.fingerprint
    _check_agreement(processes, {}, datasets["train"], data_marks)
    unlabelled, train_data, pseudo_labels = datasets.get(UNLABELLED), datasets["train"], None
    if unlabelled is not None:
        pseudo_labels = label(
            unlabelled,
            teacher,
            config,
            make_detector=lambda teacher: make_detector(teacher.model, teacher.categories, str(device)),
            is_resumed=resume is not None,
            dry_run=dry_run,
            processes=processes,
        )
        train_data = with_pseudo_labels(train_data, unlabelled, pseudo_labels.rows if pseudo_labels else [])
    loader = TrainLoader(
        train_data,
        config.recipe,
        seed=config.seed,
        num_workers=config.workers,
        device=device,
        rank=processes.rank,
        world_size=processes.world_size,
        num_channels=model.config.in_channels,
        transforms=transforms,
        balance=config.balance,
        num_unlabelled=len(train_data) - len(datasets["train"]),
    )
    description = _describe(
        config, model, datasets, loader, teacher, pseudo_labels, device=device, dtype=dtype, processes=processes
    )
    ema = ModelEMA(model, decay=config.recipe.ema_decay, warmup=config.recipe.ema_warmup)
    model = _network_to_train(model, config.recipe, device=device, processes=processes)
    state = TrainingState(
        model=model,
        ema=ema,
        optimizer=build_optimizer(model, config.recipe),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        progress=Progress(batches_per_epoch=len(loader)),
    )
    if processes.rank:
        torch.manual_seed(config.seed + processes.rank)  # different denoising noise in each process
    if resume is not None:
        _restore_run(config, resume, state, datasets, data_marks, processes=processes, say=say)
    place = {"epoch": state.progress.epoch, "batch": state.progress.batch, "step": state.progress.iteration}
    _check_agreement(processes, place, train_data, data_marks)
    criterion = build_criterion(model.config, loss=config.recipe.loss)
    if processes.is_main:
        _warn_of_mistakes(config.recipe, loader, datasets, transforms)
    return Job(
        config=config,
        folder=Path(config.output_dir),
        device=device,
        dtype=dtype,
        train_data=train_data,
        val_data=datasets.get("val"),
        loader=loader,
        criterion=criterion,
        teacher=teacher,
        pseudo_labels=pseudo_labels,
        distillation=Distillation(config.recipe.distillation, matcher=criterion.matcher),
        make_detector=make_detector,
        state=state,
        processes=processes,
        network=wrap(state.model, processes, device),
        log=_log,
        description=description,
        fingerprints=data_marks,
    )


def _build_initial_model(
    config: TrainConfig, categories: Categories, *, device: torch.device, is_new: bool, dry_run: bool
) -> RTDETR:
    """Build the network, load the starting weights of a new run, and freeze layers."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(config.seed)
    model = _build_model(config, categories).to(device)
    if is_new:  # otherwise the weights come from the checkpoint
        load_starting_weights(config, model, categories, dry_run=dry_run)
    if config.freeze is not None:
        freeze(model, config.freeze)
    return model.to(memory_format=torch.channels_last) if config.channels_last else model


def _describe(
    config: TrainConfig,
    model: RTDETR,
    datasets: Datasets,
    loader: TrainLoader,
    teacher: Teacher | None,
    pseudo_labels: PseudoLabels | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    processes: Processes,
) -> str:
    """Return the text of plan.txt; empty except in the main process."""
    if not processes.is_main:
        return ""
    counts = {part: SplitCounts.of(dataset) for part, dataset in datasets.items()}
    unlabelled = datasets.get(UNLABELLED)
    return describe(
        config,
        model=model,
        train=counts["train"],
        val=counts.get("val"),
        steps_per_epoch=len(loader),
        implied=datasets["train"].annotations.implied,
        teacher="" if teacher is None else teacher.describe(datasets["train"].categories),
        unlabelled="" if unlabelled is None else describe_labels(pseudo_labels, unlabelled),
        memory=str(estimate_memory(model, config.recipe, dtype=dtype, world_size=processes.world_size)),
        device=f"{device}" if processes.world_size == 1 else f"{device}, {counted(processes.world_size, 'process')}",
        dtype=dtype,
    )


def _network_to_train(model: RTDETR, recipe: Recipe, *, device: torch.device, processes: Processes) -> RTDETR:
    """Prepare the network for training: synchronized batch norm, compilation, gradient checkpointing."""
    if processes.world_size > 1 and recipe.sync_batch_norm and device.type == "cuda":
        model = cast(RTDETR, torch.nn.SyncBatchNorm.convert_sync_batchnorm(model))
    if recipe.compile:
        model.backbone.compile()
        model.encoder.compile()
    if recipe.gradient_checkpointing:
        recompute_activations(model)
    return model


def _restore_run(
    config: TrainConfig,
    resume: Mapping[str, Any],
    state: TrainingState,
    datasets: Datasets,
    data_marks: Mapping[str, torch.Tensor],
    *,
    processes: Processes,
    say: Callable[[str], None],
) -> None:
    """Restore the state of a run from a checkpoint, and report what has changed since."""
    categories, epochs = datasets["train"].categories, config.recipe.epochs
    if checkpoint_rows_are_ids(resume, categories, stated=config.labels_are_ids):
        resume = with_one_row_per_class(resume, categories, trained=state.trained, say=say)
    restore(resume, state, rank=processes.rank)
    if (state.progress.epoch, state.progress.batch) > (epochs, 0):
        raise ConfigError(
            f"resume: the run has finished {counted(state.progress.epoch, 'epoch')} and cannot be shortened to "
            f"{epochs}: increase --epochs, or omit it"
        )
    _warn_of_process_count(len(resume.get("rng", [])), processes)
    report_changes(resume, data_marks, names=categories.names, say=say)


def _warn_of_mistakes(recipe: Recipe, loader: TrainLoader, datasets: Datasets, transforms: Pipeline | None) -> None:
    """Warn about settings and data that look like mistakes."""
    if transforms is not None and not any(plan(recipe, epoch).strong for epoch in range(recipe.epochs)):
        _log.warning(
            "the custom transforms are not used: this recipe has no epochs with augmentation (augmentation_stop_epoch)"
        )
    consequences = {
        "train": "no objects to train on",
        "val": "no objects, so AP cannot be measured; best.pth will contain the weights of the last evaluation",
    }
    for part, dataset in datasets.items():
        if part != UNLABELLED and dataset.annotations.iscrowd.all():
            _log.warning("%s has %s", dataset.annotations_file, consequences[part])
    _say_classes_without_objects(datasets["train"])
    _warn_of_short_run(recipe, len(loader))


def _say_classes_without_objects(data: DetectionDataset) -> None:
    """Log classes without objects: a class list with too many names, or the group in an export of Roboflow."""
    annotations, names, file = data.annotations, data.categories.names, data.annotations_file
    counts = np.bincount(annotations.labels[~annotations.iscrowd], minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if not empty or len(empty) == len(names) or annotations.implied:  # the plan says so of an implied list
        return
    more = f" and {len(empty) - _SHOWN_NAMES} more" if len(empty) > _SHOWN_NAMES else ""
    _log.info(
        "%d of %s %s no objects in the training data: %s%s. The model learns never to detect %s; to drop %s, delete %s "
        "from %s",
        *(len(empty), counted(len(names), "class"), have(empty), ", ".join(map(repr, empty[:_SHOWN_NAMES])), more),
        *(["it"] if len(empty) == 1 else ["them"]) * 3,
        f"'categories' in {file}"
        if file.suffix.lower() == ".json"
        else f"the class names of {file}, and renumber labels that are numbers",
    )


def _check_agreement(
    processes: Processes, place: Mapping[str, int], data: DetectionDataset, fingerprints: Mapping[str, torch.Tensor]
) -> None:
    """Check that all processes have the same data and are at the same step; files may differ between machines.

    Raises:
        ConfigError: they differ.
    """
    content = {part: int(rows.sum()) for part, rows in fingerprints.items()}  # wraps around
    found = processes.gather_all({**place, "images": len(data), "classes": len(data.categories), "content": content})
    if any(one != found[0] for one in found):
        rank = next(rank for rank, one in enumerate(found) if one != found[0])
        raise ConfigError(
            f"the processes differ: process 0 has {found[0]}, process {rank} has {found[rank]}. Every machine needs "
            "the same dataset and, with --resume, the same checkpoint: use a shared folder, or copy both"
        )


def _choose_device(name: str, processes: Processes) -> torch.device:
    """Return the device of a name; with several processes, each uses the GPU of its local rank."""
    device = choose_device(name)
    if device.type == "cuda" and processes.world_size > 1:
        return torch.device("cuda", processes.local_rank)
    return device


def _build_model(config: TrainConfig, categories: Categories) -> RTDETR:
    network = config.network  # its pretrained weights are loaded later, and only for a new run
    if network is not None and config.in_channels is not None:
        network = network.replace(in_channels=config.in_channels)
    return build_model(
        config.model if network is None else settled(network),
        num_classes=len(categories),
        in_channels=config.in_channels,
        eval_size_hw=config.recipe.train_size_hw,
    )


def _warn_of_process_count(saved: int, processes: Processes) -> None:
    if processes.is_main and saved not in (0, processes.world_size):
        _log.warning(
            "the run had %d processes and now has %d: batches are split differently, so results will not match the "
            "original run. To use the original number, run with --processes %d or torchrun",
            saved,
            processes.world_size,
            saved,
        )


def _warn_of_short_run(recipe: Recipe, batches_per_epoch: int) -> None:
    steps = recipe.epochs * batches_per_epoch
    if recipe.warmup_iterations * 2 > steps and recipe.warmup_iterations > max(steps // 20, 1):
        _log.warning(
            "warm-up takes %d of the run's %d steps, so the learning rate stays low. Train longer, or shorten it with "
            "--set train.warmup_iterations=%d",
            min(recipe.warmup_iterations, steps),
            steps,
            max(steps // 20, 1),
        )
