"""The plan of a run, printed before the first step: `describe` returns the text of plan.txt."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rtdetr.config import Recipe, TrainConfig
from rtdetr.data import DetectionDataset
from rtdetr.errors import TrainingError
from rtdetr.files import write_text
from rtdetr.models import RTDETR
from rtdetr.recipes.named_recipes import SHORT_RUN
from rtdetr.recipes.schedule import milestone_epochs
from rtdetr.wording import counted, plural

_WIDTH = 15  # columns of the names


class SplitCounts(NamedTuple):
    """Number of images in a split, and of those without objects; crowd regions do not count as objects."""

    images: int
    without_objects: int

    @classmethod
    def of(cls, dataset: DetectionDataset) -> "SplitCounts":
        """Count the images of a dataset."""
        columns = dataset.annotations
        image_of_box = np.repeat(np.arange(len(dataset)), np.diff(columns.starts))
        return cls(len(dataset), len(dataset) - len(np.unique(image_of_box[~columns.iscrowd])))

    def __str__(self) -> str:
        return f"{counted(self.images, 'image')} ({self.without_objects:,} without objects)"


def describe(
    config: TrainConfig,
    *,
    model: RTDETR,
    train: SplitCounts,
    val: SplitCounts | None,
    steps_per_epoch: int,
    implied: Sequence[str] = (),
    teacher: str = "",
    unlabelled: str = "",
    memory: str = "",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> str:
    """Return the plan of a run as text, one line per topic.

    Args:
        config: the settings, with the final recipe.
        model: the network at the start of the run, with its layers frozen.
        train: counts of the training data.
        val: counts of the validation data; None: no evaluation.
        steps_per_epoch: batches per epoch.
        implied: names of classes that do not occur in the data, see `Annotations.implied`.
        teacher: description of the teacher; empty without one.
        unlabelled: description of the images without annotations; empty without any.
        memory: estimated memory of a step (`rtdetr.training.memory`).
        device: device that the network runs on.
        dtype: data type that it computes in.
    """
    recipe = config.recipe
    steps = recipe.epochs * steps_per_epoch
    total = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) / 1e6
    frozen = "" if config.freeze is None else f", frozen: {_frozen(config.freeze)}"
    start = _start(config)
    validation = "no evaluation" if val is None else f"validation: {val}"
    when = "unknown; the rehearsal measures it" if config.rehearsal else "unknown; shown after the first steps"
    rows = {
        "model": f"{config.model}, {total:.1f} M parameters ({trained:.1f} M trainable{frozen}), {start}",
        "data": f"{train}; {counted(model.config.num_classes, 'class')}; {validation}",
        "training data": _source(config, "data", "images"),
        "validation": "" if val is None else _source(config, "val_data", "val_images") or "val split of the same data",
        "classes": _implied_classes(implied, total=model.config.num_classes),
        "recipe": f"{config.recipe_name}{_reason(config, steps)}",
        "length": f"{counted(recipe.epochs, 'epoch')} of {counted(steps_per_epoch, 'step')}, "
        f"batch size {recipe.batch_size}; {counted(steps, 'step')} in total",
        "optimizer": "Muon for weight matrices, AdamW for other parameters" if recipe.optimizer == "muon" else "",
        "learning rate": _learning_rate(recipe, steps_per_epoch),
        "EMA": f"decay {recipe.ema_decay:.5g}, {_warmup_steps(recipe.ema_warmup)}",
        "images": _images(recipe),
        "loss": _loss(recipe),
        "teacher": teacher,
        "unlabelled": unlabelled,
        "compute": f"{str(dtype).removeprefix('torch.')} on {device}",
        "device memory": memory,
        "time": when,
        "output": config.output_dir,
    }
    return "\n".join(f"{name:<{_WIDTH}}{text}" for name, text in rows.items() if text)


def _source(config: TrainConfig, data: str, images: str) -> str:
    """Paths of a dataset and its image folder, each with its origin; empty if they were not given."""
    parts = []
    for name, text in ((data, ""), (images, "images in ")):
        paths = getattr(config, name)
        if paths is not None:
            origin = config.data_origins.get(name)
            shown = paths if isinstance(paths, str) else ", ".join(paths)
            parts.append(f"{text}{shown}" + ("" if origin is None else f" ({origin})"))
    return "; ".join(parts)


def _implied_classes(implied: Sequence[str], *, total: int) -> str:
    """Explain that Pascal VOC's class list is used; empty if all classes occur in the data."""
    if not implied:
        return ""
    return (
        f"{counted(total, 'class')}, {total - len(implied)} of them in the data: the names are Pascal VOC's, so its "
        "whole list is used; to use only your own, add a classes.txt with their names to the dataset folder"
    )


def note_time(path: Path, description: str, text: str) -> None:
    """Rewrite a plan with the measured time."""
    lines = [f"{'time':<{_WIDTH}}{text}" if line.startswith("time ") else line for line in description.splitlines()]
    write_text(path, "\n".join(lines) + "\n", error=TrainingError)


def _loss(recipe: Recipe) -> str:
    loss = recipe.loss
    weights = {
        loss.classification.upper(): loss.classification_weight,
        "L1": loss.bbox_weight,
        "GIoU": loss.giou_weight,
    }
    return " + ".join(f"{weight:g} {name}" for name, weight in weights.items())


def _start(config: TrainConfig) -> str:
    if config.weights is not None:
        return f"starting from the weights {config.weights}"
    if config.backbone_weights is not None:
        weights = "" if config.backbone_weights == "auto" else f" {config.backbone_weights}"
        return f"starting from {'backbone' if weights else 'ImageNet backbone'} weights{weights}"
    return "starting from random weights"


def _frozen(part: str | int) -> str:
    if isinstance(part, int):
        return f"stem and {counted(part, 'stage')}"
    return "backbone and encoder" if part == "encoder" else part


def _reason(config: TrainConfig, steps: int) -> str:
    if config.recipe_name == "finetune":
        return ": adapted to this dataset; --recipe published is the published recipe of the model"
    if config.recipe_name == "scratch":
        limit = counted(SHORT_RUN, "step")
        kind = (
            f"adapted to runs of fewer than {limit}" if steps < SHORT_RUN else f"as deim, in runs of at least {limit}"
        )
        return f": {kind}; --recipe published is the published recipe of the model"
    if config.recipe_name == "published" and config.weights is not None:
        return ": the published recipe of the model; --recipe finetune adapts it to this dataset"
    return ""


def _warmup_steps(steps: int) -> str:
    return f"{steps:,} warm-up {plural('step', steps)}"


def _learning_rate(recipe: Recipe, steps_per_epoch: int) -> str:
    backbone = [g.lr for g in recipe.groups if g.lr is not None] if recipe.grouping == "patterns" else []
    own = backbone[0] if backbone else recipe.backbone_lr if recipe.grouping == "modules" else None
    parts = [f"{recipe.lr:.3g}" + ("" if own in (None, recipe.lr) else f", backbone {own:.3g}")]
    steps = recipe.epochs * steps_per_epoch
    parts.append(_warmup_steps(min(recipe.warmup_iterations, steps)))
    milestones = milestone_epochs(recipe, iterations_per_epoch=steps_per_epoch)
    if recipe.schedule == "flat_cosine":
        flat = f"constant for {counted(recipe.flat_epochs, 'epoch')}, then " if recipe.flat_epochs else ""
        parts.append(f"{flat}cosine decay to {recipe.final_lr_factor:.0%}")
    elif recipe.schedule == "steps" and any(milestone < recipe.epochs for milestone in milestones):
        parts.append(f"multiplied by {recipe.milestone_factor:g} at epochs {', '.join(map(str, milestones))}")
    else:
        parts.append("then constant")
    return "; ".join(parts)


def _images(recipe: Recipe) -> str:
    def until(stop: int | None, start: int = 0) -> str:
        if start:
            return f" in epochs {start + 1} to {recipe.epochs if stop is None else min(stop, recipe.epochs)}"
        return "" if stop is None or stop >= recipe.epochs else f" for {counted(stop, 'epoch')}"

    start = recipe.augmentation_start_epoch

    parts = ["x".join(map(str, recipe.train_size_hw))]
    sizes = recipe.multiscale_sizes
    if sizes and recipe.multiscale_stop_epoch != 0:
        parts.append(f"multi-scale {min(sizes)} to {max(sizes)}{until(recipe.multiscale_stop_epoch)}")
    if recipe.augmentation_stop_epoch != 0:
        parts.append(f"color, zoom-out and crop augmentation{until(recipe.augmentation_stop_epoch, start)}")
    zoom_stop = recipe.augmentation_stop_epoch
    stop = min((one for one in (recipe.mixing_stop_epoch, zoom_stop) if one is not None), default=None)
    chances = (("mosaic", recipe.mosaic, stop), ("mixup", recipe.mixup, stop), ("copy-paste", recipe.copy_paste, stop))
    for name, chance, end in (*chances, ("zoom-in on tiny objects", recipe.zoom_in, zoom_stop)):
        if chance and end is not None and end <= start:
            limit = "augmentation_stop_epoch" if end == zoom_stop else "mixing_stop_epoch"
            parts.append(f"{name} in no epoch, because train.{limit} is {end}")
        elif chance:
            parts.append(f"{name} with probability {chance:g}{until(end, start)}")
    if recipe.repeats > 1:
        parts.append(f"each image {recipe.repeats} times per batch")
    return "; ".join([*parts, *(["horizontal flips"] if recipe.flip else [])])
