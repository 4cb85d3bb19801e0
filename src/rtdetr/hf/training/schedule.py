"""What changes between epochs and steps of a run: augmentation that stops, and the size of each batch."""

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

    The same in every process, since it depends on the arguments alone; from the recipe's `multiscale_stop_epoch` on
    always `train_size_hw`.

    Args:
        recipe: has the sizes to draw from.
        epoch: counted from 0.
        step: optimizer steps made so far in the whole run; the parts of an accumulated batch have one size.
        seed: of the run; >= 0.
    """
    sizes = plan(recipe, epoch).batch_sizes_hw
    return sizes[np.random.default_rng([seed, step]).integers(len(sizes))]


def resize_batch(pixel_values: Tensor, size_hw: SizeHW) -> Tensor:
    """Scale a batch of images (b, c, h, w) to a step's size; boxes are normalized and stay as they are."""
    if pixel_values.shape[2:] == size_hw:
        return pixel_values
    return functional.interpolate(pixel_values, size=size_hw, mode="nearest")  # published behavior


class AugmentationSchedule(TrainerCallback):
    """Lets Trainer follow the recipe of an `AugmentedDataset`: which augmentation at which epoch, and multi-scale.

    Batches are scaled on the device, in front of the model while it is in train mode, so that neither the workers that
    loaded them nor the process they belong to matter.
    """

    def __init__(self, dataset: AugmentedDataset) -> None:
        """Follow the recipe and the seed of the training dataset."""
        self.dataset = dataset
        self.step = 0
        self._hook: RemovableHandle | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the scaling in front of the model."""
        self._remove()  # of a run that an exception ended
        self._hook = kwargs["model"].register_forward_pre_hook(_scaling(self), with_kwargs=True)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the dataset and its workers, before they load."""
        self.dataset.set_epoch(int(state.epoch or 0))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the step, which the size is drawn for."""
        self.step = state.global_step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model as it was."""
        self._remove()

    def _remove(self) -> None:
        if self._hook is not None:
            self._hook.remove()


def _scaling(schedule: AugmentationSchedule) -> Callable[..., Any]:
    """A hook that scales images. Not a method: a copy of the model, as the average is, would copy the dataset too."""

    def scale(model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        if model.training:
            data = schedule.dataset
            size_hw = batch_size_hw(data.recipe, epoch=data.epoch, step=schedule.step, seed=data.seed)
            named = {**named, "pixel_values": resize_batch(named["pixel_values"], size_hw)}
        return arguments, named

    return scale
