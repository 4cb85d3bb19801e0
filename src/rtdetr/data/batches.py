"""Define, sample and build batches of training data; `loader.py` yields them.

Together with the seed, a `BatchKey` determines a batch: epoch, number and images. The sampler creates the keys in the
training process; a worker process turns each into a `Batch`.
"""

import itertools
import logging
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from rtdetr.config import Recipe, SizeHW
from rtdetr.data.copy_paste import draw_pastes, paste_objects
from rtdetr.data.dataset import DetectionDataset
from rtdetr.data.image_files import BAD_IMAGES
from rtdetr.data.mosaic import MIX_SHARES, NUM_TILES, draw_grid, mosaic
from rtdetr.data.outlines import read_outlines
from rtdetr.data.pipelines import Pipeline, apply_pipeline
from rtdetr.data.sampling import epoch_length, epoch_order
from rtdetr.data.schedule import EpochPlan, plan
from rtdetr.data.transforms import Objects, Sample, augment, draw_view
from rtdetr.errors import DatasetError, RTDETRError

_log = logging.getLogger(__name__)
SHARED_MEMORY = "shared memory"  # part of PyTorch's message when it is full
_ORDER, _BATCH, _SAMPLE = range(3)  # independent random streams


class Batch(NamedTuple):
    """A batch from a worker. It has one tensor, because each takes a file in shared memory for the transfer."""

    images: UInt8[Tensor, "b h w c"] | UInt8[np.ndarray, "b h w c"]  # at the base size; array if shared memory was full
    size_hw: SizeHW  # size to scale the batch to
    mix_share: float | None  # weight of each image when blended with the previous one; None for no mixup
    labels: Int64[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]  # normalized cxcywh
    counts: list[int]  # objects per image

    @property
    def tensors(self) -> tuple[UInt8[Tensor, "b h w c"], Int64[Tensor, " n"], Float[Tensor, "n 4"]]:
        """Images, labels and boxes."""
        return torch.as_tensor(self.images), torch.from_numpy(self.labels), torch.from_numpy(self.boxes)


class BatchKey(NamedTuple):
    """The images of one process's share of a batch, and their positions in the epoch."""

    epoch: int
    batch: int
    indices: list[int]
    positions: list[int]


class BatchSampler(Sampler[BatchKey]):
    """Shuffles the images in each epoch and yields the share of this process of every batch."""

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        factors: np.ndarray | None = None,
        repeats: int = 1,
    ) -> None:
        """Split `batch_size` images over `world_size` processes; for `factors` see `epoch_order`.

        With `repeats`, each image of a batch is in it that many times, and an epoch of as many batches shows only that
        fraction of the images. Source: arXiv 1902.05509 (MultiGrain), repeated augmentation.
        """
        self._num_images, self._batch_size, self._factors = num_images, batch_size, factors
        self._seed, self._rank, self._world_size, self._repeats = seed, rank, world_size, repeats
        self.num_batches = max(epoch_length(factors, num_images=num_images) // batch_size, 1)
        self.epoch = self.start_batch = 0

    def __len__(self) -> int:
        return max(self.num_batches - self.start_batch, 0)

    def __iter__(self) -> Iterator[BatchKey]:
        order = epoch_order(_generator(_ORDER, self._seed, self.epoch, 0), self._factors, num_images=self._num_images)
        distinct = self._batch_size // self._repeats
        for batch in range(self.start_batch, self.num_batches):
            # a copy of an image is not next to it, so that mixup blends different images
            images = np.resize(order[batch * distinct : (batch + 1) * distinct], self._size_of_batch())
            own = range(self._rank, len(images), self._world_size)
            yield BatchKey(self.epoch, batch, images[own].tolist(), [batch * self._batch_size + place for place in own])

    def share_of_batch(self) -> int:
        """Return the number of images per batch in this process."""
        return len(range(self._rank, self._size_of_batch(), self._world_size))

    def _size_of_batch(self) -> int:
        """Return the number of images per batch: fewer in a small dataset, but each process has one."""
        num_images = epoch_length(self._factors, num_images=self._num_images)
        return min(self._batch_size, max(num_images * self._repeats, self._world_size))


class BatchBuilder(Dataset[Batch | RTDETRError]):
    """Builds the batch of a key, in a worker process if there are any."""

    def __init__(
        self,
        dataset: DetectionDataset,
        recipe: Recipe,
        *,
        seed: int,
        num_channels: int = 3,
        pipeline: Pipeline | None = None,
    ) -> None:
        """Read `dataset` with `num_channels` and augment it according to the recipe or a user's pipeline."""
        self._dataset, self._recipe, self._seed = dataset, recipe, seed
        self._num_channels, self._pipeline = num_channels, pipeline
        self._outlines = read_outlines(dataset) if recipe.copy_paste else {}
        self._warned: set[str] = set()

    def __getitem__(self, key: BatchKey) -> Batch | RTDETRError:
        try:
            return self.build(key, plan(self._recipe, key.epoch))
        except RTDETRError as error:
            return error  # the loader raises it; an exception raised in a worker would be wrapped in a traceback

    def build(self, key: BatchKey, epoch_plan: EpochPlan) -> Batch:
        """Read and augment the images of a key.

        Raises:
            DatasetError: an image is missing or broken, or the user's pipeline failed on it; see also
                `DetectionDataset.skipping_bad_images`.
        """
        samples = [
            self._good_sample(index, epoch_plan, _generator(_SAMPLE, self._seed, key.epoch, position))
            for index, position in zip(key.indices, key.positions, strict=True)
        ]
        targets = [sample.target for sample in samples]
        rng = _generator(_BATCH, self._seed, key.epoch, key.batch)  # the same in every process
        size_hw = epoch_plan.batch_sizes_hw[rng.integers(len(epoch_plan.batch_sizes_hw))]
        mixed, share = rng.random() < epoch_plan.mixup, rng.uniform(*MIX_SHARES)
        return Batch(
            images=_stacked([sample.pixels for sample in samples]),
            size_hw=size_hw,
            mix_share=share if mixed else None,
            labels=torch.cat([target["labels"] for target in targets]).numpy(),
            boxes=torch.cat([target["boxes"] for target in targets]).numpy(),
            counts=[len(target["labels"]) for target in targets],
        )

    def _good_sample(self, index: int, epoch_plan: EpochPlan, rng: np.random.Generator) -> Sample:
        """Return the sample of an image; if it cannot be read and the dataset allows it, of the next readable one."""
        plain = epoch_plan._replace(copy_paste=0.0)  # the image that cannot be read may be the source of pasted objects
        plans = [epoch_plan, plain] if epoch_plan.copy_paste else [epoch_plan]
        for step, tried in itertools.product(range(len(self._dataset)), plans):
            try:
                return self._sample((index + step) % len(self._dataset), tried, rng)
            except DatasetError as error:
                if not self._dataset.skips_bad_images:
                    raise
                reason = str(error).removesuffix(BAD_IMAGES)
                if reason not in self._warned:
                    _log.warning("skipped: %s", reason, extra={"of_one_process": True})
                    self._warned.add(reason)
        raise DatasetError(f"{self._dataset.annotations_file}: none of its images can be read")

    def _sample(self, index: int, epoch_plan: EpochPlan, rng: np.random.Generator) -> Sample:
        """Draw the view of the sample, read it from the dataset and augment it."""
        if self._pipeline is not None and epoch_plan.strong:
            return self._own_sample(self._pipeline, index, epoch_plan.size_hw, rng)
        if self._pipeline is not None:
            epoch_plan = epoch_plan._replace(flip=0.0, mosaic=0.0)
        if rng.random() < epoch_plan.mosaic:
            indices = [index, *rng.integers(len(self._dataset), size=NUM_TILES - 1).tolist()]
            images, reads = zip(*(self._image(i, epoch_plan, rng) for i in indices), strict=True)
            grid = draw_grid(images, plan=epoch_plan, rng=rng)
            pixels = [read(grid.reduction(tile, images[tile].size_wh)) for tile, read in enumerate(reads)]
            return mosaic(pixels, images, grid, plan=epoch_plan, rng=rng)
        objects, read = self._image(index, epoch_plan, rng)
        view = draw_view(objects, plan=epoch_plan, rng=rng)
        return augment(read(view.reduction), objects, view, plan=epoch_plan, rng=rng)

    def _image(
        self, index: int, epoch_plan: EpochPlan, rng: np.random.Generator
    ) -> tuple[Objects, Callable[[int], np.ndarray]]:
        """Return the objects of an image, with those pasted into it, and a function that reads it at a reduction."""
        objects, read = self._objects(index), partial(self._read, index)
        if not epoch_plan.copy_paste or rng.random() >= epoch_plan.copy_paste:
            return objects, read
        others = self._images_with_objects[self._images_with_objects != index]
        other = int(rng.choice(others)) if len(others) else index  # of a single image, its own objects
        found, outlines = self._objects(other), [self._outlines.get(row) for row in self._rows(other)]
        target = self._dataset.target(other)
        crowds_xyxy = target["boxes_xyxy"][target["iscrowd"]]
        objects, pastes = draw_pastes(objects, found, outlines, crowds_xyxy=crowds_xyxy, plan=epoch_plan, rng=rng)

        def read_pasted(reduction: int) -> np.ndarray:
            return paste_objects(
                read(reduction),
                pastes,
                size_wh=objects.size_wh,
                other_size_wh=found.size_wh,
                read_other=partial(self._read, other),
            )

        return objects, read_pasted

    def _own_sample(self, pipeline: Pipeline, index: int, size_hw: SizeHW, rng: np.random.Generator) -> Sample:
        pixels, objects, num_classes = self._read(index), self._objects(index), len(self._dataset.categories)
        try:
            return apply_pipeline(pipeline, pixels, objects, num_classes=num_classes, size_hw=size_hw, rng=rng)
        except DatasetError as error:
            raise DatasetError(
                f"image {self._dataset.source_id(index)} ({self._dataset.path(index)}): {error}"
            ) from error

    def _objects(self, index: int) -> Objects:
        target = self._dataset.target(index)
        kept = ~target["iscrowd"]
        return Objects(target["size_wh"], target["boxes_xyxy"][kept], target["labels"][kept])

    def _rows(self, index: int) -> list[int]:
        """Return the rows of `_objects` in the columns of the dataset."""
        start, end = self._dataset.annotations.starts[index : index + 2]
        return (start + np.flatnonzero(~self._dataset.annotations.iscrowd[start:end])).tolist()

    @cached_property
    def _images_with_objects(self) -> np.ndarray:
        """The images from which objects can be pasted, int64 (n,)."""
        columns = self._dataset.annotations
        return np.unique(np.searchsorted(columns.starts, np.flatnonzero(~columns.iscrowd), side="right") - 1)

    def _read(self, index: int, reduction: int = 1) -> np.ndarray:
        return self._dataset.load_array(index, num_channels=self._num_channels, reduction=reduction)[0]


def _generator(stream: int, seed: int, epoch: int, number: int) -> np.random.Generator:
    return np.random.default_rng([stream, seed, epoch, number])


def _stacked(images: list[UInt8[np.ndarray, "h w c"]]) -> Tensor | np.ndarray:
    """Stack images into a tensor, in shared memory if in a worker; if that is full, into an array sent by pipe."""
    try:
        return default_collate([torch.from_numpy(image) for image in images])
    except RuntimeError as error:
        if SHARED_MEMORY not in str(error):
            raise
        return np.stack(images)
