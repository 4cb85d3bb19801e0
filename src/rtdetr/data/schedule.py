"""Augmentation and image sizes of an epoch, as a pure function of the recipe.

Source: the recipes of arXiv 2407.17140 (RT-DETRv2), which train the last epochs at one size without strong
augmentation.
"""

from typing import NamedTuple

from rtdetr.config import STRIDE, Recipe, SizeHW


class EpochPlan(NamedTuple):
    """Data settings of one epoch.

    strong: whether color distortion, zoom-out and crop, or the user's augmentation that replaces them, are on.
    size_hw: height and width that every sample is resized to, in pixels.
    batch_sizes_hw: sizes that a batch is then scaled to, with equal probability; only `size_hw` without multi-scale.
    flip: probability that a sample is mirrored.
    mosaic: probability that a sample is a mosaic of four images.
    mixup: probability that the images of a batch are blended pairwise.
    copy_paste: probability that objects of another image are pasted into an image.
    zoom_in: probability that a sample shows the surroundings of a tiny object, if its image has one.
    """

    strong: bool
    size_hw: SizeHW
    batch_sizes_hw: tuple[SizeHW, ...]
    flip: float = 0.5
    mosaic: float = 0.0
    mixup: float = 0.0
    copy_paste: float = 0.0
    zoom_in: float = 0.0


def plan(recipe: Recipe, epoch: int) -> EpochPlan:
    """Return the plan for an epoch, counted from 0.

    Differs: published sizes are squares. For a rectangular `train_size_hw`, a multi-scale size is the longer side, and
    the other is scaled in proportion and rounded to a multiple of 32.
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
        copy_paste=recipe.copy_paste if mixing else 0.0,
        zoom_in=recipe.zoom_in if strong else 0.0,
    )


def largest_size_hw(recipe: Recipe) -> SizeHW:
    """Return the largest size, by number of pixels, that a batch can have in the run."""
    return max((*plan(recipe, 0).batch_sizes_hw, recipe.train_size_hw), key=lambda size: size[0] * size[1])


def _before(epoch: int, stop_epoch: int | None) -> bool:
    return stop_epoch is None or epoch < stop_epoch


def _scaled(size_hw: SizeHW, longer: int) -> SizeHW:
    height, width = (max(1, round(side * longer / max(size_hw) / STRIDE)) * STRIDE for side in size_hw)
    return height, width
