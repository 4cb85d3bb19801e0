"""What the training data looks like at an epoch: which augmentation, which image sizes. A pure function of the recipe.

Source: the recipes of arXiv 2407.17140 (RT-DETRv2), which train the last epochs on plain images of one size.
"""

from typing import NamedTuple

from rtdetr.config import STRIDE, Recipe, SizeHW


class EpochPlan(NamedTuple):
    """The data of one epoch.

    strong: color distortion, zoom-out and crop are on, or the user's own augmentation in their place.
    size_hw: height and width that every sample is resized to, in pixels.
    batch_sizes_hw: sizes that a batch is then scaled to, drawn with equal chance; only `size_hw` without multi-scale.
    flip: chance that a sample is mirrored.
    mosaic: chance that a sample is made of four images.
    mixup: chance that a batch is blended with itself.
    """

    strong: bool
    size_hw: SizeHW
    batch_sizes_hw: tuple[SizeHW, ...]
    flip: float = 0.5
    mosaic: float = 0.0
    mixup: float = 0.0


def plan(recipe: Recipe, epoch: int) -> EpochPlan:
    """The plan for an epoch, counted from 0.

    Differs: published sizes are squares. For a rectangular `train_size_hw` a multi-scale size is the longer side, and
    the other follows in proportion, rounded to a multiple of 32.
    """
    size_hw = recipe.train_size_hw
    sides = recipe.multiscale_sizes if _before(epoch, recipe.multiscale_stop_epoch) else ()
    strong = epoch >= recipe.augmentation_start_epoch and _before(epoch, recipe.augmentation_stop_epoch)
    mixing = strong and _before(epoch, recipe.mixing_stop_epoch)
    return EpochPlan(
        strong=strong,
        size_hw=size_hw,
        batch_sizes_hw=tuple(_scaled(size_hw, side) for side in sides) or (size_hw,),
        flip=recipe.flip,
        mosaic=recipe.mosaic if mixing else 0.0,
        mixup=recipe.mixup if mixing else 0.0,
    )


def largest_size_hw(recipe: Recipe) -> SizeHW:
    """The size with the most pixels that a batch can have in the whole run."""
    return max((*plan(recipe, 0).batch_sizes_hw, recipe.train_size_hw), key=lambda size: size[0] * size[1])


def _before(epoch: int, stop_epoch: int | None) -> bool:
    return stop_epoch is None or epoch < stop_epoch


def _scaled(size_hw: SizeHW, longer: int) -> SizeHW:
    height, width = (max(1, round(side * longer / max(size_hw) / STRIDE)) * STRIDE for side in size_hw)
    return height, width
