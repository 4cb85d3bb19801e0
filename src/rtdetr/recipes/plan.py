"""What a run is going to do, for a person to read before the first step: `describe` gives the text of plan.txt."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rtdetr.config import Recipe, TrainConfig
from rtdetr.data import DetectionDataset
from rtdetr.errors import TrainingError
from rtdetr.files import write_atomically
from rtdetr.models import RTDETR
from rtdetr.recipes.schedule import milestone_epochs
from rtdetr.wording import counted, occur


class SplitCounts(NamedTuple):
    """How many images a split has, and how many of them have no object to be found; crowd regions are none."""

    images: int
    without_objects: int

    @classmethod
    def of(cls, dataset: DetectionDataset) -> "SplitCounts":
        """Count a dataset."""
        columns = dataset.annotations
        image_of_box = np.repeat(np.arange(len(dataset)), np.diff(columns.starts))
        return cls(len(dataset), len(dataset) - len(np.unique(image_of_box[~columns.iscrowd])))

    def __str__(self) -> str:
        return f"{counted(self.images, 'image')}, {self.without_objects:,} of them without objects"


def describe(
    config: TrainConfig,
    *,
    model: RTDETR,
    train: SplitCounts,
    val: SplitCounts | None,
    steps_per_epoch: int,
    implied: Sequence[str] = (),
    memory: str = "",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> str:
    """Return a few lines that say what a run is going to do.

    Args:
        config: the settings, with the final recipe.
        model: with its first weights, as far frozen as it is to be.
        train: what is trained on.
        val: what is evaluated; None: nothing is.
        steps_per_epoch: batches of an epoch.
        implied: names of classes that the data does not have, see `Annotations.implied`.
        memory: estimated memory of a step (`rtdetr.training.memory`).
        device: where the network runs.
        dtype: what it computes in.
    """
    recipe = config.recipe
    steps = recipe.epochs * steps_per_epoch
    total = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) / 1e6
    frozen = "" if config.freeze is None else f", frozen: {_frozen(config.freeze)}"
    start = _start(config)
    validation = "none is evaluated" if val is None else f"for validation {val}"
    when = "unknown until the rehearsal" if config.rehearsal else "unknown until the first steps"
    rows = {
        "model": f"{config.model}, {total:.1f} M parameters ({trained:.1f} M trained{frozen}), {start}",
        "data": f"{train}; {counted(model.config.num_classes, 'class')}; {validation}",
        "train": _source(config, "data", "images"),
        "val": "" if val is None else _source(config, "val_data", "val_images") or "the validation part of the same",
        "classes": _implied_classes(implied, total=model.config.num_classes),
        "recipe": f"{config.recipe_name}{_reason(config)}",
        "length": f"{counted(recipe.epochs, 'epoch')} of {counted(steps_per_epoch, 'step')} "
        f"of {counted(recipe.batch_size, 'image')}: {counted(steps, 'step')}",
        "rate": _rate(recipe, steps_per_epoch),
        "average": f"decay {recipe.ema_decay:.5g}, reached over {counted(recipe.ema_warmup, 'step')}",
        "images": _images(recipe),
        "loss": _loss(recipe),
        "compute": f"{str(dtype).removeprefix('torch.')} on {device}",
        "memory": memory,
        "time": when,
        "results": config.output_dir,
    }
    return "\n".join(f"{name:<9}{text}" for name, text in rows.items() if text)


def _source(config: TrainConfig, data: str, images: str) -> str:
    """A dataset and its folder of images as they were named, and by what; nothing where they were not named."""
    parts = []
    for name, text in ((data, ""), (images, "images in ")):
        paths = getattr(config, name)
        if paths is not None:
            origin = config.data_origins.get(name)
            shown = paths if isinstance(paths, str) else ", ".join(paths)
            parts.append(f"{text}{shown}" + ("" if origin is None else f" ({origin})"))
    return "; ".join(parts)


def _implied_classes(implied: Sequence[str], *, total: int) -> str:
    """What to say where classes are taken from Pascal VOC's own list; nothing where the data has all of them."""
    if not implied:
        return ""
    count = total - len(implied)
    return (
        f"{counted(total, 'class')}, of which {count} {occur(count)}: all names are of Pascal "
        "VOC's own list, which is taken whole; put a classes.txt with your names into the dataset's folder for your own"
    )


def note_time(path: Path, description: str, text: str) -> None:
    """Write a description again with what is known of the time by now."""
    lines = [f"{'time':<9}{text}" if line.startswith("time ") else line for line in description.splitlines()]
    content = "\n".join(lines) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(content, encoding="utf-8"), error=TrainingError)


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
        return f"from the weights {config.weights}"
    if config.backbone_weights is not None:
        return "from ImageNet weights" if config.backbone_weights == "auto" else f"from {config.backbone_weights}"
    return "from random weights"


def _frozen(part: str | int) -> str:
    if isinstance(part, int):
        return f"stem and {counted(part, 'stage')}"
    return "backbone and encoder" if part == "encoder" else part


def _reason(config: TrainConfig) -> str:
    if config.recipe_name == "finetune":
        return ": made for these images; the published one is --recipe published"
    if config.recipe_name == "published" and config.weights is not None:
        return ": that of the model; the one that fits the data is --recipe finetune"
    return ""


def _rate(recipe: Recipe, steps_per_epoch: int) -> str:
    backbone = [g.lr for g in recipe.groups if g.lr is not None] if recipe.grouping == "patterns" else []
    own = backbone[0] if backbone else recipe.backbone_lr if recipe.grouping == "modules" else None
    parts = [f"{recipe.lr:.3g}" + ("" if own in (None, recipe.lr) else f", backbone {own:.3g}")]
    steps = recipe.epochs * steps_per_epoch
    parts.append(f"{counted(min(recipe.warmup_iterations, steps), 'step')} of warm-up")
    milestones = milestone_epochs(recipe, iterations_per_epoch=steps_per_epoch)
    if recipe.schedule == "flat_cosine":
        flat = f"flat for {counted(recipe.flat_epochs, 'epoch')}, then " if recipe.flat_epochs else ""
        parts.append(f"{flat}a cosine down to {recipe.final_lr_factor:.0%}")
    elif recipe.schedule == "steps" and any(milestone < recipe.epochs for milestone in milestones):
        parts.append(f"x {recipe.milestone_factor:g} at epochs {', '.join(map(str, milestones))}")
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
        parts.append(f"color, zoom-out and crop{until(recipe.augmentation_stop_epoch, start)}")
    for name, chance in (("mosaic", recipe.mosaic), ("mixup", recipe.mixup)):
        if chance:
            parts.append(f"{name} with a chance of {chance:g}{until(recipe.mixing_stop_epoch, start)}")
    return "; ".join([*parts, *(["flips"] if recipe.flip else [])])
