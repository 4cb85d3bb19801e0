"""Batches for training, reproducible: a batch depends on (seed, epoch, position) and on nothing else.

The number of workers, an earlier epoch or a restart in the middle of one change nothing, and the global random
generators are neither used nor moved. A sampler hands out whole batches, a worker builds one of them (`transforms.py`),
and images travel as bytes; they become float32 on the device.
"""

import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from rtdetr.config import Recipe, SizeHW
from rtdetr.data.coco import DetectionDataset
from rtdetr.data.schedule import plan
from rtdetr.data.transforms import augment
from rtdetr.errors import ConfigError, RTDETRError
from rtdetr.structures import Target

_ORDER, _SIZE, _SAMPLE = range(3)  # independent random streams


class TrainLoader:
    """Iterating gives one epoch of (images float32 (b, 3, h, w) in [0, 1], list of `Target`).

    Call `set_epoch` before each epoch. `len` is the number of batches in a whole epoch: images that do not fill the
    last batch are left out of this epoch, except when they are all there is.

    Raises, while iterating:
        DatasetError: an image is missing or broken; raised here as it is, whichever worker met it.
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

        Raises:
            ConfigError: the batch cannot be shared out evenly.
        """
        if recipe.batch_size % world_size:
            raise ConfigError(f"batch_size {recipe.batch_size} must be a multiple of the {world_size} processes")
        self._dataset = dataset
        self._sampler = _BatchSampler(len(dataset), recipe.batch_size, seed=seed, rank=rank, world_size=world_size)
        self._device = torch.device(device)
        self._loader = DataLoader(
            _BatchBuilder(dataset, recipe, seed),
            sampler=self._sampler,
            batch_size=None,  # an item is a batch already
            collate_fn=_unchanged,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # else DataLoader draws from the global one
            worker_init_fn=_ignore_interrupt,
        )

    def set_epoch(self, epoch: int, *, start_batch: int = 0) -> None:
        """Choose the epoch to iterate next, counted from 0, and how many of its batches to pass over."""
        self._sampler.epoch, self._sampler.start_batch = epoch, start_batch

    def image_ids(self, batch: int) -> list[int]:
        """Ids of the images in one batch of the chosen epoch, to name them in a message; not before `start_batch`."""
        indices = next(key.indices for key in self._sampler if key.batch == batch)
        return self._dataset.image_ids[indices].tolist()

    def __len__(self) -> int:
        return self._sampler.num_batches

    def __iter__(self) -> Iterator[tuple[Float[Tensor, "b 3 h w"], list[Target]]]:
        for batch in self._loader:
            if isinstance(batch, RTDETRError):
                raise batch
            parts = (batch.images, batch.labels, batch.boxes)
            images, labels, boxes = (part.to(self._device, non_blocking=True) for part in parts)
            if images.shape[2:] != batch.size_hw:
                images = functional.interpolate(images, size=batch.size_hw, mode="nearest")  # published behaviour
            objects = zip(labels.split(batch.counts), boxes.split(batch.counts), strict=True)
            yield images.float().div_(255), [Target(labels=one, boxes=four) for one, four in objects]


class _Batch(NamedTuple):
    """A batch as it comes from a worker: few tensors, because each costs a file handle on its way."""

    images: UInt8[Tensor, "b 3 h w"]  # all samples have the epoch's base size
    size_hw: SizeHW  # that the batch is to be scaled to
    labels: Int64[Tensor, " n"]
    boxes: Float[Tensor, "n 4"]
    counts: list[int]  # objects of each image


class _BatchKey(NamedTuple):
    """All that a batch follows from, besides the seed."""

    epoch: int
    batch: int
    indices: list[int]


class _BatchSampler(Sampler[_BatchKey]):
    """A new order each epoch; each process takes its share of every batch."""

    def __init__(self, num_images: int, batch_size: int, *, seed: int, rank: int, world_size: int) -> None:
        self._num_images, self._batch_size = num_images, batch_size
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self.num_batches = max(num_images // batch_size, 1)
        self.epoch = self.start_batch = 0

    def __len__(self) -> int:
        return max(self.num_batches - self.start_batch, 0)

    def __iter__(self) -> Iterator[_BatchKey]:
        order = _generator(_ORDER, self._seed, self.epoch, 0).permutation(self._num_images)
        if len(order) < self._world_size:
            order = np.resize(order, self._world_size)  # repeats, so that no process is without an image
        for batch in range(self.start_batch, self.num_batches):
            indices = order[batch * self._batch_size : (batch + 1) * self._batch_size]
            yield _BatchKey(self.epoch, batch, indices[self._rank :: self._world_size].tolist())


class _BatchBuilder(Dataset[_Batch | RTDETRError]):
    """Builds the batch of a key; in a worker process, if there are any."""

    def __init__(self, dataset: DetectionDataset, recipe: Recipe, seed: int) -> None:
        self._dataset, self._recipe, self._seed = dataset, recipe, seed

    def __getitem__(self, key: _BatchKey) -> _Batch | RTDETRError:
        try:
            return self._build(key)
        except RTDETRError as error:
            return error  # the loader raises it; a worker's own exceptions arrive wrapped in a traceback

    def _build(self, key: _BatchKey) -> _Batch:
        epoch_plan = plan(self._recipe, key.epoch)
        samples = []
        for index in key.indices:
            image, objects = self._dataset.load(index)
            kept = ~objects["iscrowd"]
            rng = _generator(_SAMPLE, self._seed, key.epoch, index)
            samples.append(
                augment(image, objects["boxes_xyxy"][kept], objects["labels"][kept], plan=epoch_plan, rng=rng)
            )
        targets = [target for _, target in samples]
        sizes_hw = epoch_plan.batch_sizes_hw
        return _Batch(
            images=torch.stack([image for image, _ in samples]),
            size_hw=sizes_hw[_generator(_SIZE, self._seed, key.epoch, key.batch).integers(len(sizes_hw))],
            labels=torch.cat([target["labels"] for target in targets]),
            boxes=torch.cat([target["boxes"] for target in targets]),
            counts=[len(target["labels"]) for target in targets],
        )


def _generator(stream: int, seed: int, epoch: int, number: int) -> np.random.Generator:
    return np.random.default_rng([stream, seed, epoch, number])


def _unchanged(batch: object) -> object:
    return batch


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the main one decides when the workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
