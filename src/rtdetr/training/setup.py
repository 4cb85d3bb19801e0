"""Builds what a run needs from its settings: datasets, model with its first weights, optimiser, average, loader."""

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtdetr import zoo
from rtdetr.categories import Categories
from rtdetr.config import Recipe, TrainConfig
from rtdetr.data import DetectionDataset, TrainLoader, open_dataset
from rtdetr.detections import Detections, Detector
from rtdetr.devices import choose_device, training_dtype
from rtdetr.errors import ConfigError, TrainingError
from rtdetr.evaluation import CocoMetrics, evaluate_dataset
from rtdetr.files import write_atomically
from rtdetr.losses import Criterion, build_criterion
from rtdetr.models import RTDETR, build_model
from rtdetr.training.checkpoint import Progress, TrainingState, restore
from rtdetr.training.ema import ModelEMA
from rtdetr.training.optimizer import build_optimizer
from rtdetr.weights import load_backbone, metadata, read_checkpoint, transfer

_log = logging.getLogger(__name__)
LAST_FILE, BEST_FILE, CONFIG_FILE = "last.pth", "best.pth", "config.json"

MakeDetector = Callable[[RTDETR, Categories], Detector]


@dataclass(frozen=True)
class Job:
    """A run, ready to go. Only `state` changes while it goes.

    Attributes:
        config: what was asked for.
        folder: where the results go.
        device: where the network runs.
        dtype: what it computes in; weights, loss and optimiser stay float32.
        train_data: images that are trained on.
        val_data: images that are evaluated, with the labels of `train_data`; None: none are.
        loader: batches of `train_data`.
        criterion: the objective.
        make_detector: turns the averaged model into what is evaluated.
        state: model, average, optimiser, scaler and progress.
    """

    config: TrainConfig
    folder: Path
    device: torch.device
    dtype: torch.dtype
    train_data: DetectionDataset
    val_data: DetectionDataset | None
    loader: TrainLoader
    criterion: Criterion
    make_detector: MakeDetector
    state: TrainingState

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of images and convolution weights."""
        return torch.channels_last if self.config.channels_last else torch.contiguous_format

    @property
    def metadata(self) -> dict[str, Any]:
        """What a checkpoint says about itself: the model, its classes and the settings of the run."""
        about_model = metadata(self.state.ema.module.config, self.train_data.categories)
        return {**about_model, "training": self.config.model_dump(mode="json")}

    @property
    def description(self) -> str:
        """One line for the person who waits."""
        recipe, parameters = self.config.recipe, sum(p.numel() for p in self.state.model.parameters())
        num_classes, size = len(self.train_data.categories), "x".join(map(str, recipe.train_size_hw))
        return (
            f"training {self.config.model} ({parameters / 1e6:.1f} M parameters, {num_classes} classes) "
            f"on {len(self.train_data)} images at {size} in {str(self.dtype).removeprefix('torch.')} on {self.device}: "
            f"{recipe.epochs} epochs of {len(self.loader)} steps, {recipe.batch_size} images a step; "
            f"results in {self.folder}"
        )

    def is_evaluated(self, epoch: int) -> bool:
        """Whether an evaluation follows this epoch, counted from 0."""
        every, is_last = self.config.evaluate_every, epoch + 1 == self.config.recipe.epochs
        return self.val_data is not None and ((epoch + 1) % every == 0 or is_last)

    def evaluate(self) -> CocoMetrics:
        """Measure the averaged model on the validation data."""
        assert self.val_data is not None
        detector = self.make_detector(self.state.ema.module, self.train_data.categories)

        def predict(images: list[Any]) -> list[Detections]:
            found = detector(images, threshold=0.0, batch_size=len(images))
            return found if isinstance(found, list) else [found]

        return evaluate_dataset(predict, self.val_data, batch_size=self.config.recipe.batch_size).metrics


def prepare(config: TrainConfig, *, make_detector: MakeDetector, resume: Mapping[str, Any] | None = None) -> Job:
    """Build a run, and bring it to where the checkpoint `resume` was saved.

    Raises:
        ConfigError, DatasetError, WeightsError: what was asked for cannot be done.
        TrainingError: the output folder cannot be written.
    """
    recipe = config.recipe
    device = choose_device(config.device)
    dtype = training_dtype(device, recipe.precision)
    train_data, val_data = _open_data(config)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(config.seed)
    model = _build_model(config, train_data.categories, fresh=resume is None).to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    loader = TrainLoader(train_data, recipe, seed=config.seed, num_workers=config.workers, device=device)
    state = TrainingState(
        model=model,
        ema=ModelEMA(model, decay=recipe.ema_decay, warmup=recipe.ema_warmup),
        optimizer=build_optimizer(model, recipe),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        progress=Progress(batches_per_epoch=len(loader)),
    )
    criterion = build_criterion(model.config, loss=recipe.loss)
    _warn_of_short_run(recipe, len(loader))
    folder = _open_folder(config, is_new=resume is None)
    if resume is not None:
        restore(resume, state)
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
    )


def _open_data(config: TrainConfig) -> tuple[DetectionDataset, DetectionDataset | None]:
    train = open_dataset(config.data, split="train", images=config.images, on_bad_box=config.bad_boxes)
    if config.evaluate_every == 0:
        return train, None
    if config.val_data is None and not Path(config.data).is_dir():
        raise ConfigError(f"{config.data} has no validation part; give one as val_data, or set evaluate_every to 0")
    val = open_dataset(
        config.val_data or config.data,
        split="val",
        images=config.val_images,
        categories=train.categories,
        on_bad_box=config.bad_boxes,
    )
    return train, val


def _build_model(config: TrainConfig, categories: Categories, *, fresh: bool) -> RTDETR:
    """Build the network with the weights that the run starts from; on resuming, they come from the checkpoint."""
    model = build_model(config.model, num_classes=len(categories), eval_size_hw=config.recipe.train_size_hw)
    published = config.recipe.tuning_from or config.model
    if not fresh:
        return model
    if config.weights is not None:
        loaded = read_checkpoint(config.weights, model=config.model)
        names = None if loaded.categories is None else loaded.categories.names
        report = transfer(model, loaded.state, source_names=names, target_names=categories.names)
        _log.info("weights of %s: %s", loaded.path, report)
    elif config.backbone_weights is not None:
        source = zoo.entry(config.model).backbone_url if config.backbone_weights == "auto" else config.backbone_weights
        if source is None:
            raise ConfigError(f"{config.model} has no published backbone weights; give a file or leave them out")
        load_backbone(model, source)
        _log.info("backbone weights of %s", source)
    elif zoo.entry(published).checkpoints:
        _log.info("starting from random weights; --weights %s starts from the published ones", published)
    return model


def _open_folder(config: TrainConfig, *, is_new: bool) -> Path:
    """Create the output folder with config.json in it."""
    folder = Path(config.output_dir)
    if is_new and (folder / LAST_FILE).exists():
        raise ConfigError(f"{folder} holds another run; resume that one, or choose another folder for this one")
    text = config.model_dump_json(indent=1) + "\n"
    write_atomically(
        folder / CONFIG_FILE, lambda temporary: temporary.write_text(text, encoding="utf-8"), error=TrainingError
    )
    for leftover in folder.glob(".*.pth.*.tmp"):  # of a process that was killed while it saved
        leftover.unlink(missing_ok=True)
    return folder


def _warn_of_short_run(recipe: Recipe, batches_per_epoch: int) -> None:
    steps = recipe.epochs * batches_per_epoch
    if recipe.warmup_iterations * 2 > steps:
        _log.warning(
            "warm-up takes %d of the run's %d steps, so the learning rate stays low; train longer, or shorten it: "
            "--set warmup_iterations=%d",
            min(recipe.warmup_iterations, steps),
            steps,
            max(steps // 20, 1),
        )
