"""Datasets with items for the detection models of transformers, and a function that collates them.

An item is {"pixel_values": float32 (c, h, w) in [0, 1], "labels": {...}}, as from the transformers image processor with
COCO annotations. All images are stretched to one size, not padded, so there is no pixel mask.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rtdetr.config import DEFAULT_SIZE_HW, Recipe, SizeHW
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

    For its n objects without crowd regions, `labels` has `class_labels` int64 (n,), `boxes` float32 (n, 4) normalized
    cxcywh, `area` float32 (n,) in pixels of the network input, and `iscrowd` int64 (n,), all 0. It also has `image_id`
    int64 (1,), and `orig_size` and `size` int64 (2,), height and width of the image file and of the network input.
    """

    pixel_values: Tensor
    labels: Labels


class AugmentedDataset(Dataset[Item]):
    """Training images with the augmentation of the recipe for the current epoch.

    An item depends only on (seed, epoch, index), not on the number of workers or on restarts. The epoch is in shared
    memory, so persistent workers see it change.

    With Trainer, `AugmentationSchedule` calls `set_epoch`. In your own loop, call it yourself.
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
            seed: random seed of the augmentation, >= 0.
            num_channels: number of image channels of the network.
            transforms: your own augmentation; see `rtdetr.data.TrainLoader`.

        Raises:
            ConfigError: the recipe has mixup or repeats, which need whole batches, or the transforms are not valid.
        """
        for name, off in (("mixup", 0.0), ("repeats", 1)):
            if (value := getattr(recipe, name)) != off:
                raise ConfigError(
                    f"expected a recipe with {name} {off:g}, got {value}: {name} needs whole batches and a dataset "
                    f"returns single images; use recipe.replace({name}={off}), or train with rtdetr.train"
                )
        if transforms is not None:
            check_pipeline(transforms)
        self.dataset, self.recipe, self.seed = dataset, recipe, seed
        self._builder = BatchBuilder(dataset, recipe, seed=seed, num_channels=num_channels, pipeline=transforms)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, in this process and all its workers."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        epoch = self.epoch
        # a batch of one image, with random numbers that depend on its index in the epoch
        batch = self._builder.build(BatchKey(epoch, index, [index], [index]), plan(self.recipe, epoch))
        images, labels, boxes = batch.tensors
        pixels = images[0].permute(2, 0, 1).contiguous().float().div_(255)
        return _item(self.dataset, index, pixels, Target(labels=labels, boxes=boxes))


class EvaluationDataset(Dataset[Item]):
    """Images as evaluation and inference see them: stretched to one size, not augmented."""

    def __init__(self, dataset: DetectionDataset, size_hw: SizeHW = DEFAULT_SIZE_HW, *, num_channels: int = 3) -> None:
        """Return the images of `dataset` at `size_hw`, height and width in pixels, multiples of 32."""
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
    """Collate items of the datasets above, or of the transformers image processor, to a batch.

    Args:
        items: each with `pixel_values` (c, h, w), `labels` for training and evaluation, and a `pixel_mask` (h, w) if
            the processor padded the image.

    Returns:
        `pixel_values` (b, c, h, w), `pixel_mask` (b, h, w) if present, and `labels`, a list of dicts.

    Raises:
        InputError: images have different sizes.
    """
    batch: dict[str, Any] = {}
    for name in ("pixel_values", "pixel_mask"):
        tensors = [torch.as_tensor(item[name]) for item in items if name in item]
        sizes = {tuple(tensor.shape) for tensor in tensors}
        if len(sizes) > 1:
            raise InputError(
                f"{name}: expected one size per batch, got {sorted(sizes)[0]} and {sorted(sizes)[1]}; set a fixed size "
                'in the image processor, such as size={"height": 640, "width": 640}'
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
