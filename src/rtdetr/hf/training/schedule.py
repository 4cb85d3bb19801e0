"""What changes between epochs and steps of a run: augmentation and the size of each batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rtdetr.config import Recipe, SizeHW
from rtdetr.data.schedule import plan
from rtdetr.hf.training.data import AugmentedDataset


def batch_size_hw(recipe: Recipe, *, epoch: int, step: int, seed: int = 0) -> SizeHW:
    """Return the image size of a training step: height and width in pixels.

    It is the same in every process, because it depends only on the arguments. From `multiscale_stop_epoch` of the
    recipe on it is always `train_size_hw`.

    Args:
        recipe: recipe with the sizes to choose from.
        epoch: epoch, counted from 0.
        step: optimizer steps so far in the whole run; all parts of an accumulated batch have the same size.
        seed: random seed of the run, >= 0.
    """
    sizes = plan(recipe, epoch).batch_sizes_hw
    return sizes[np.random.default_rng([seed, step]).integers(len(sizes))]


def resize_batch(pixel_values: Tensor, size_hw: SizeHW) -> Tensor:
    """Scale a batch of images (b, c, h, w) to the size of a step; boxes are normalized and need no change."""
    if pixel_values.shape[2:] == size_hw:
        return pixel_values
    return functional.interpolate(pixel_values, size=size_hw, mode="nearest")  # published behavior


class AugmentationSchedule(TrainerCallback):
    """Apply the schedule of an `AugmentedDataset` with Trainer: augmentation per epoch, and multi-scale.

    Batches are scaled on the device, before the model and only in train mode, so workers and processes do not matter.
    """

    def __init__(self, dataset: AugmentedDataset) -> None:
        """Use the recipe and seed of the training dataset."""
        self.dataset = dataset
        self.step = 0
        self._hook: RemovableHandle | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add a hook that scales batches before the model."""
        self._remove()  # left from a run that ended with an exception
        self._hook = kwargs["model"].register_forward_pre_hook(_scaling(self), with_kwargs=True)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch of the dataset before its workers load images."""
        self.dataset.set_epoch(int(state.epoch or 0))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Store the step, which determines the size."""
        self.step = state.global_step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove the hook."""
        self._remove()

    def _remove(self) -> None:
        if self._hook is not None:
            self._hook.remove()


def _scaling(schedule: AugmentationSchedule) -> Callable[..., Any]:
    """Return a hook that scales images; if it were a method, copying the model (for the EMA) would copy the dataset."""

    def scale(model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        if model.training:
            data = schedule.dataset
            size_hw = batch_size_hw(data.recipe, epoch=data.epoch, step=schedule.step, seed=data.seed)
            named = {**named, "pixel_values": resize_batch(named["pixel_values"], size_hw)}
        return arguments, named

    return scale
