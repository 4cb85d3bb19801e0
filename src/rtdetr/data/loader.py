"""Batches for training, reproducible: a batch depends on (seed, epoch, position) and on nothing else.

The number of workers, an earlier epoch or a restart in the middle of one change nothing, and the global random
generators are neither used nor moved. Several processes share out the images of the same batch, each made as one
process would make it; only mixup depends on their number, because it blends within the share of each.

A sampler hands out whole batches, a worker builds one of them (`batches.py`), and images travel as bytes; on the device
they become float32, change size for multi-scale and are blended for mixup.
"""

import atexit
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import warnings
import weakref
from collections.abc import Iterator
from multiprocessing.process import BaseProcess

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from rtdetr.config import Recipe
from rtdetr.data.batches import SHARED_MEMORY, Batch, BatchBuilder, BatchKey, BatchSampler
from rtdetr.data.dataset import DetectionDataset
from rtdetr.data.mosaic import NUM_TILES, mix
from rtdetr.data.pipelines import Pipeline, check_pipeline
from rtdetr.data.sampling import repeat_factors
from rtdetr.data.schedule import largest_size_hw, plan
from rtdetr.errors import ConfigError, RTDETRError, TrainingError
from rtdetr.structures import Target
from rtdetr.wording import counted

_log = logging.getLogger(__name__)
_DISMISSAL = getattr(signal, "SIGUSR1", signal.SIGTERM)  # ends a worker whose loader is no more
TrainBatch = tuple[Float[Tensor, "b c h w"], list[Target]]


class TrainLoader:
    """Iterating gives one epoch of (images float32 (b, c, h, w) in [0, 1], list of `Target`).

    Call `set_epoch` before each epoch. `len` is the number of batches in a whole epoch, the same for every epoch and
    process: images that do not fill the last batch are left out of this epoch, except when they are all there is. The
    images lie in memory channel by channel of each pixel (`torch.channels_last`), as convolutions like them best.

    Raises, while iterating:
        DatasetError: an image is missing or broken; raised here as it is, whichever worker met it.
        TrainingError: the system ended a worker.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        recipe: Recipe,
        *,
        seed: int = 0,
        num_workers: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        num_channels: int = 3,
        transforms: Pipeline | None = None,
        balance: bool = False,
    ) -> None:
        """Set up an epoch of `recipe.batch_size` images a batch.

        Args:
            dataset: images and boxes.
            recipe: batch size over all processes, image sizes, augmentation and their schedule.
            seed: of order, augmentation and sizes; >= 0.
            num_workers: processes that prepare batches; 0 prepares them in this one. They live as long as the loader.
            device: where the images and targets end up.
            rank: number of this process, 0 to world_size - 1.
            world_size: processes that share each batch.
            num_channels: of the network's images: 3 RGB, 1 gray, any other number for images stored so.
            transforms: a torchvision v2 pipeline, an albumentations Compose, or a function of an image and a target as
                in torchvision, in place of all that happens to a sample (colors, zoom-out, crop, flip, mosaic) from
                the recipe's augmentation_start_epoch to its augmentation_stop_epoch; other epochs are not augmented.
            balance: show images with rare classes more often; see `sampling.repeat_factors`.

        Raises:
            ConfigError: the batch cannot be shared out evenly, or the transforms cannot be used.
        """
        if recipe.batch_size % world_size:
            raise ConfigError(
                f"batch_size {recipe.batch_size} must be a multiple of the {counted(world_size, 'process')}"
            )
        if transforms is not None:
            check_pipeline(transforms)
        self._dataset, self._recipe = dataset, recipe
        self._sampler = BatchSampler(
            len(dataset),
            recipe.batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            factors=repeat_factors(dataset.annotations) if balance else None,
        )
        self._builder = BatchBuilder(dataset, recipe, seed=seed, num_channels=num_channels, pipeline=transforms)
        self._device = torch.device(device)
        with warnings.catch_warnings():
            # more workers than cores do no harm
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            self._loader = DataLoader(
                self._builder,
                sampler=self._sampler,
                batch_size=None,  # an item is a batch already
                collate_fn=_unchanged,
                num_workers=num_workers,
                persistent_workers=num_workers > 0,
                multiprocessing_context=_start_method() if num_workers else None,
                pin_memory=self._device.type == "cuda",
                generator=torch.Generator(),  # else DataLoader draws from the global one
                worker_init_fn=_leave_signals_to_the_main_process,
            )
        self._warned = False  # that shared memory is full
        self._workers: list[BaseProcess] = []
        if num_workers:
            atexit.register(_end_workers, weakref.ref(self._loader))
            weakref.finalize(self, _dismiss, self._workers).atexit = False

    def set_epoch(self, epoch: int, *, start_batch: int = 0) -> None:
        """Choose the epoch to iterate next, counted from 0, and how many of its batches to pass over."""
        self._sampler.epoch, self._sampler.start_batch = epoch, start_batch

    def image_ids(self, batch: int) -> list[int]:
        """Ids, as their sources have them, of the images in one batch of the chosen epoch; not before `start_batch`."""
        indices = next(key.indices for key in self._sampler if key.batch == batch)
        return [self._dataset.source_id(index) for index in indices]

    def largest_batch(self) -> TrainBatch:
        """The heaviest batch that the run may meet: its largest size, and the images with most objects.

        Nothing is cut from the images, and where the recipe has mosaic or mixup, each gets its objects as often as
        these can multiply them. To see whether the memory suffices; the state of the loader stays as it is.

        Raises:
            DatasetError: one of the images is missing or broken.
        """
        columns, recipe = self._dataset.annotations, self._recipe
        totals = np.concatenate([[0], np.cumsum(~columns.iscrowd)])[columns.starts]
        fullest = np.argsort(-np.diff(totals), kind="stable")
        chosen = np.resize(fullest, self._sampler.share_of_batch()).tolist()
        still = plan(recipe, 0)._replace(
            strong=False, flip=0.0, mosaic=0.0, mixup=0.0, batch_sizes_hw=(largest_size_hw(recipe),)
        )
        batch = self._builder.build(BatchKey(0, 0, chosen, list(range(len(chosen)))), still)
        images, targets = self._finish(batch)
        times = (NUM_TILES if recipe.mosaic else 1) * (2 if recipe.mixup else 1)
        return images, [
            Target(labels=target["labels"].repeat(times), boxes=target["boxes"].repeat(times, 1)) for target in targets
        ]

    def __len__(self) -> int:
        return self._sampler.num_batches

    def __iter__(self) -> Iterator[TrainBatch]:
        try:
            batches = iter(self._loader)
            self._workers[:] = getattr(batches, "_workers", [])
            for batch in batches:
                if isinstance(batch, RTDETRError):
                    raise batch
                yield self._finish(batch)
        except (RuntimeError, ConnectionError, EOFError) as error:
            died = not isinstance(error, RuntimeError) or str(error).startswith("DataLoader worker")
            if isinstance(error, RTDETRError) or not died:
                raise
            with contextlib.suppress(RuntimeError):  # PyTorch's, at the death of a worker it still counts on
                _end_workers(weakref.ref(self._loader))
            raise TrainingError(_lost_worker(str(error))) from None

    def _finish(self, batch: Batch) -> TrainBatch:
        """Move a batch to the device and do there what is cheaper there."""
        if isinstance(batch.images, np.ndarray) and not self._warned:
            self._warned = True
            _log.warning(
                "shared memory (/dev/shm) is full: images come from the workers through pipes, which is slower. "
                "Enlarge it (docker run --shm-size=8g), or use fewer workers"
            )
        images, labels, boxes = (part.to(self._device, non_blocking=True) for part in batch.tensors)
        images = images.permute(0, 3, 1, 2)
        if images.shape[2:] != batch.size_hw:
            images = functional.interpolate(images, size=batch.size_hw, mode="nearest")  # published behavior
        images = images.float().div_(255)
        objects = zip(labels.split(batch.counts), boxes.split(batch.counts), strict=True)
        targets = [Target(labels=one, boxes=four) for one, four in objects]
        return (images, targets) if batch.mix_share is None else mix(images, targets, share=batch.mix_share)


def _start_method() -> str | None:
    """How workers start: forked ones share the columns of the dataset, any others get a copy each."""
    if sys.platform == "darwin" or "fork" not in multiprocessing.get_all_start_methods():
        return None  # the system's libraries do not survive a fork on macOS
    return "fork"


def _lost_worker(problem: str) -> str:
    """What to tell about a worker that the system ended."""
    cause, advice = "most likely because memory ran out", "use fewer workers, or a smaller batch"
    if SHARED_MEMORY in problem:
        cause, advice = (
            "because shared memory (/dev/shm) is full",
            f"enlarge it (docker run --shm-size=8g), or {advice}",
        )
    return f"the system ended a process that loads images, {cause}: {advice}. It says: {' '.join(problem.split())}"


def _unchanged(batch: object) -> object:
    return batch


def _end_workers(reference: "weakref.ref[DataLoader[object]]") -> None:
    """End the workers of a loader, if it is still there at the exit: multiprocessing would wait for them for ever."""
    iterator = getattr(reference(), "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()


def _dismiss(workers: list[BaseProcess]) -> None:
    """End the workers of a loader that is no more. PyTorch sends them SIGTERM at last, which they ignore."""
    for worker in workers:
        if worker.pid is not None and worker.is_alive():
            os.kill(worker.pid, _DISMISSAL)
    workers.clear()


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C and many a SIGTERM reach every process of a group; the main one decides when the workers end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if _DISMISSAL != signal.SIGTERM:
        signal.signal(_DISMISSAL, lambda _number, _frame: os._exit(0))  # another status is an error for PyTorch
