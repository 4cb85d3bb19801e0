"""Reproducible batches for training: a batch depends only on (seed, epoch, position).

The number of workers, earlier epochs and a restart within an epoch do not matter, and the global random generators are
neither used nor advanced. Several processes split the images of a batch; each image is the same as with one process.
Only mixup depends on the number of processes, because it blends within the share of each.

A sampler yields the keys of whole batches, a worker builds each batch (`batches.py`), and images are transferred as
bytes; on the device they are converted to float32, resized for multi-scale training and blended for mixup.
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
from rtdetr.data.mosaic import NUM_TILES, mixup
from rtdetr.data.pipelines import Pipeline, check_pipeline
from rtdetr.data.sampling import epoch_factors
from rtdetr.data.schedule import largest_size_hw, plan
from rtdetr.errors import ConfigError, RTDETRError, TrainingError
from rtdetr.structures import Target
from rtdetr.wording import counted

_log = logging.getLogger(__name__)
_EXIT_SIGNAL = getattr(signal, "SIGUSR1", signal.SIGTERM)  # ends a worker after its loader was deleted
TrainBatch = tuple[Float[Tensor, "b c h w"], list[Target]]


class TrainLoader:
    """Yields the batches of one epoch: images float32 (b, c, h, w) in [0, 1], and a list of `Target`.

    Call `set_epoch` before each epoch. `len` is the number of batches in a full epoch, the same for every epoch and
    process: images that do not fill the last batch are omitted from this epoch, unless there is no other batch. Images
    are in `torch.channels_last` memory format, which is fastest for convolutions.

    Raises, while iterating:
        DatasetError: an image is missing or broken; raised without a worker's traceback.
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
        num_unlabelled: int = 0,
    ) -> None:
        """Set up a loader with `recipe.batch_size` images per batch.

        Args:
            dataset: images and boxes.
            recipe: total batch size over all processes, image sizes, augmentation and their schedule.
            seed: random seed of order, augmentation and sizes; >= 0.
            num_workers: worker processes that prepare batches; 0 prepares them in this process. They live as long as
                the loader.
            device: device of the returned images and targets.
            rank: rank of this process, 0 to world_size - 1.
            world_size: number of processes that share each batch.
            num_channels: channels of the network's input: 3 for RGB, 1 for gray; any other number requires images
                stored so.
            transforms: a torchvision v2 pipeline, an albumentations Compose, or a function of an image and a target as
                in torchvision. Replaces the augmentation of samples (all but mixup and multi-scale) from the recipe's
                augmentation_start_epoch to its augmentation_stop_epoch; other epochs are not augmented.
            balance: whether to sample images with rare classes more often; see `sampling.repeat_factors`.
            num_unlabelled: how many of the images, at the end, have pseudo-labels; see `sampling.epoch_factors`.

        Raises:
            ConfigError: the batch cannot be split evenly over processes or repeats, or the transforms cannot be used.
        """
        if recipe.batch_size % world_size:
            raise ConfigError(
                f"batch_size {recipe.batch_size} must be a multiple of the number of processes, {world_size}"
            )
        if recipe.batch_size % recipe.repeats:
            raise ConfigError(f"batch_size {recipe.batch_size} must be a multiple of repeats, {recipe.repeats}")
        if recipe.repeats > 1 and recipe.mixup and recipe.batch_size // recipe.repeats <= world_size:
            raise ConfigError(
                f"with batch_size {recipe.batch_size}, repeats {recipe.repeats} and {counted(world_size, 'process')}, "
                "mixup would blend an image with itself: increase the batch size, or set mixup to 0"
            )
        if transforms is not None:
            check_pipeline(transforms)
        self._dataset, self._recipe = dataset, recipe
        labelled = dataset.annotations.first(len(dataset) - num_unlabelled)
        self._sampler = BatchSampler(
            len(dataset),
            recipe.batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            factors=epoch_factors(labelled, balance=balance, num_unlabelled=num_unlabelled),
            repeats=recipe.repeats,
        )
        self._builder = BatchBuilder(dataset, recipe, seed=seed, num_channels=num_channels, pipeline=transforms)
        self._device = torch.device(device)
        with warnings.catch_warnings():
            # more workers than cores are harmless
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            self._loader = DataLoader(
                self._builder,
                sampler=self._sampler,
                batch_size=None,  # an item is a batch already
                collate_fn=_identity,
                num_workers=num_workers,
                persistent_workers=num_workers > 0,
                multiprocessing_context=_start_method() if num_workers else None,
                pin_memory=self._device.type == "cuda",
                generator=torch.Generator(),  # otherwise DataLoader draws from the global one
                worker_init_fn=_ignore_stop_signals,
            )
        self._warned = False  # about full shared memory
        self._workers: list[BaseProcess] = []
        if num_workers:
            atexit.register(_end_workers, weakref.ref(self._loader))
            weakref.finalize(self, _end_orphaned_workers, self._workers).atexit = False

    def set_epoch(self, epoch: int, *, start_batch: int = 0) -> None:
        """Choose the next epoch, counted from 0, and how many of its batches to skip."""
        self._sampler.epoch, self._sampler.start_batch = epoch, start_batch

    def image_ids(self, batch: int) -> list[int]:
        """Return the source ids of the images in one batch of the chosen epoch, from `start_batch` on."""
        indices = next(key.indices for key in self._sampler if key.batch == batch)
        return [self._dataset.source_id(index) for index in indices]

    def largest_batch(self) -> TrainBatch:
        """Return the most demanding batch of the run, to test memory: the largest size, and images with most objects.

        Images are not cropped. If the recipe has mosaic, mixup or copy-paste, objects are repeated as often as these
        can multiply them. The state of the loader does not change.

        Raises:
            DatasetError: one of the images is missing or broken.
        """
        columns, recipe = self._dataset.annotations, self._recipe
        totals = np.concatenate([[0], np.cumsum(~columns.iscrowd)])[columns.starts]
        fullest = np.argsort(-np.diff(totals), kind="stable")
        chosen = np.resize(fullest, self._sampler.share_of_batch()).tolist()
        still = plan(recipe, 0)._replace(
            strong=False,
            flip=0.0,
            mosaic=0.0,
            mixup=0.0,
            copy_paste=0.0,
            zoom_in=0.0,
            batch_sizes_hw=(largest_size_hw(recipe),),
        )
        batch = self._builder.build(BatchKey(0, 0, chosen, list(range(len(chosen)))), still)
        images, targets = self._finish(batch)
        times = (NUM_TILES if recipe.mosaic else 1) * (2 if recipe.mixup else 1) * (2 if recipe.copy_paste else 1)
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
            with contextlib.suppress(RuntimeError):  # PyTorch reports the dead worker again
                _end_workers(weakref.ref(self._loader))
            raise TrainingError(_lost_worker_message(str(error))) from None

    def _finish(self, batch: Batch) -> TrainBatch:
        """Move a batch to the device and do the steps that are cheaper there."""
        if isinstance(batch.images, np.ndarray) and not self._warned:
            self._warned = True
            _log.warning(
                "shared memory (/dev/shm) is full, so workers send images through pipes, which is slower. "
                "Enlarge it (docker run --shm-size=8g), or use fewer workers"
            )
        images, labels, boxes = (part.to(self._device, non_blocking=True) for part in batch.tensors)
        images = images.permute(0, 3, 1, 2)
        if images.shape[2:] != batch.size_hw:
            images = functional.interpolate(images, size=batch.size_hw, mode="nearest")  # published behavior
        images = images.float().div_(255)
        objects = zip(labels.split(batch.counts), boxes.split(batch.counts), strict=True)
        targets = [Target(labels=one, boxes=four) for one, four in objects]
        return (images, targets) if batch.mix_share is None else mixup(images, targets, share=batch.mix_share)


def _start_method() -> str | None:
    """Return how workers start: forked ones share the columns of the dataset, others get a copy each."""
    if sys.platform == "darwin" or "fork" not in multiprocessing.get_all_start_methods():
        return None  # system libraries on macOS do not survive a fork
    return "fork"


def _lost_worker_message(problem: str) -> str:
    """Return the message about a worker that the system ended."""
    cause, advice = "most likely because memory ran out", "use fewer workers or a smaller batch"
    if SHARED_MEMORY in problem:
        cause, advice = (
            "because shared memory (/dev/shm) is full",
            f"enlarge it (docker run --shm-size=8g), or {advice}",
        )
    return f"the system ended a data loading worker, {cause}; {advice}. System message: {' '.join(problem.split())}"


def _identity(batch: object) -> object:
    return batch


def _end_workers(reference: "weakref.ref[DataLoader[object]]") -> None:
    """End the workers of a loader that still exists at exit; multiprocessing would wait for them forever."""
    iterator = getattr(reference(), "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()


def _end_orphaned_workers(workers: list[BaseProcess]) -> None:
    """End the workers of a deleted loader. PyTorch finally sends SIGTERM, which they ignore."""
    for worker in workers:
        if worker.pid is not None and worker.is_alive():
            os.kill(worker.pid, _EXIT_SIGNAL)
    workers.clear()


def _ignore_stop_signals(worker: int) -> None:
    """Ignore Ctrl-C and SIGTERM, which often reach every process of a group; the main process ends the workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if _EXIT_SIGNAL != signal.SIGTERM:
        signal.signal(_EXIT_SIGNAL, lambda _number, _frame: os._exit(0))  # any other status is an error for PyTorch
