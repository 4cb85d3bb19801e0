"""Datasets whose items are what transformers' detection models take, and the function that makes a batch of them.

An item is {"pixel_values": float32 (c, h, w) in [0, 1], "labels": {...}}, as from transformers' image processor with
COCO annotations. Every image is stretched to one size: nothing is padded, so there is no pixel mask.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rtdetr.config import Recipe, SizeHW
from rtdetr.data import DetectionDataset
from rtdetr.data.batches import BatchBuilder, BatchKey
from rtdetr.data.pipelines import Pipeline, check_pipeline
from rtdetr.data.schedule import plan
from rtdetr.data.transforms import to_target
from rtdetr.errors import ConfigError, InputError
from rtdetr.preprocessing import preprocess
from rtdetr.structures import Target

Labels = dict[str, Tensor]


class Item(TypedDict):
    """One image for the network.

    `labels` holds, of its n objects without crowd regions: `class_labels` int64 (n,), `boxes` float32 (n, 4) normalized
    cxcywh, `area` float32 (n,) in pixels of the network's image and `iscrowd` int64 (n,), all 0; and `image_id` int64
    (1,), `orig_size` and `size` int64 (2,), height and width of the image in its file and for the network.
    """

    pixel_values: Tensor
    labels: Labels


class AugmentedDataset(Dataset[Item]):
    """Training images with the augmentation that the recipe has for the epoch under way.

    An item depends on (seed, epoch, index) and on nothing else: neither on the number of workers nor on a restart. The
    epoch lies in shared memory, where workers that outlive an epoch see it change.

    `set_epoch` is called by `AugmentationSchedule` under Trainer, and by hand in a loop of one's own.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        recipe: Recipe,
        *,
        seed: int = 0,
        num_channels: int = 3,
        transforms: Pipeline | None = None,
    ) -> None:
        """Augment the images of `dataset`.

        Args:
            dataset: images and boxes, from `rtdetr.data.open_dataset`.
            recipe: image size, augmentation and the epochs at which it changes.
            seed: of the augmentation; >= 0.
            num_channels: of the network's images.
            transforms: augmentation of one's own; see `rtdetr.data.TrainLoader`.

        Raises:
            ConfigError: the recipe has mixup, which blends whole batches, or the transforms cannot be used.
        """
        if recipe.mixup:
            raise ConfigError(
                f"mixup blends whole batches and a dataset gives single images; expected a recipe with mixup 0, got "
                f"{recipe.mixup}: use recipe.replace(mixup=0.0), or train with rtdetr.train"
            )
        if transforms is not None:
            check_pipeline(transforms)
        self.dataset, self.recipe, self.seed = dataset, recipe, seed
        self._builder = BatchBuilder(dataset, recipe, seed=seed, num_channels=num_channels, pipeline=transforms)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch under way, counted from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, in this process and in all its workers."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        epoch = self.epoch
        # a batch of one: its random numbers are those of the image's number in the epoch
        batch = self._builder.build(BatchKey(epoch, index, [index], [index]), plan(self.recipe, epoch))
        images, labels, boxes = batch.tensors
        pixels = images[0].permute(2, 0, 1).contiguous().float().div_(255)
        return _item(self.dataset, index, pixels, Target(labels=labels, boxes=boxes))


class EvaluationDataset(Dataset[Item]):
    """Images as evaluation and inference see them: stretched to one size, not augmented."""

    def __init__(self, dataset: DetectionDataset, size_hw: SizeHW = (640, 640), *, num_channels: int = 3) -> None:
        """Give the images of `dataset` at `size_hw`, height and width in pixels, multiples of 32."""
        self.dataset, self.size_hw, self._num_channels = dataset, size_hw, num_channels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        array, found = self.dataset.load_array(index, num_channels=self._num_channels)
        kept = ~found["iscrowd"]
        target = to_target(
            found["boxes_xyxy"][kept],
            found["labels"][kept],
            plane_wh=np.array(found["size_wh"]),
            size_hw=self.size_hw,
        )
        return _item(self.dataset, index, torch.from_numpy(preprocess(array, self.size_hw)), target)


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a batch of items of the datasets above, or of transformers' image processor.

    Args:
        items: each with `pixel_values` (c, h, w), `labels` for training and evaluation, and a `pixel_mask` (h, w) if
            the processor padded the image.

    Returns:
        `pixel_values` (b, c, h, w), `pixel_mask` (b, h, w) if there are any, and `labels`, a list of dicts.

    Raises:
        InputError: images of several sizes.
    """
    batch: dict[str, Any] = {}
    for name in ("pixel_values", "pixel_mask"):
        tensors = [torch.as_tensor(item[name]) for item in items if name in item]
        sizes = {tuple(tensor.shape) for tensor in tensors}
        if len(sizes) > 1:
            raise InputError(
                f"{name}: expected one size in a batch, got {sorted(sizes)[0]} and {sorted(sizes)[1]}. Give the image "
                'processor a fixed size={"height": 640, "width": 640}'
            )
        if tensors:
            batch[name] = torch.stack(tensors)
    if "labels" in items[0]:
        batch["labels"] = [item["labels"] for item in items]
    return batch


def _item(dataset: DetectionDataset, index: int, pixels: Tensor, target: Target) -> Item:
    width, height = dataset.annotations.sizes_wh[index].tolist()
    boxes, size = target["boxes"], torch.tensor(pixels.shape[1:])
    labels = {
        "class_labels": target["labels"],
        "boxes": boxes,
        "area": boxes[:, 2] * boxes[:, 3] * size.prod(),
        "iscrowd": torch.zeros_like(target["labels"]),
        "image_id": torch.tensor([int(dataset.image_ids[index])]),
        "orig_size": torch.tensor([height, width]),
        "size": size,
    }
    return Item(pixel_values=pixels, labels=labels)
