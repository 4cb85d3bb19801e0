"""Recipes by name: `published` as in the papers, `finetune` and `scratch` adapted to the dataset, `deim` for long runs.

A model name is also a recipe: the published recipe of that model.
"""

import math
import re
from typing import Literal

from rtdetr import zoo
from rtdetr.config import ModelConfig, PResNetConfig, Recipe
from rtdetr.errors import ConfigError, nearest
from rtdetr.recipes.changes import change

PUBLISHED, FINETUNE, SCRATCH, DEIM = RECIPES = ("published", "finetune", "scratch", "deim")
AUTO = "auto"  # no recipe given: it depends on weights and classes (`resolve.py`)
SHORT_RUN = 20_000  # steps; SCRATCH and FINETUNE keep published values in longer runs


def named_recipe(name: str, model: str, network: ModelConfig | None = None) -> Recipe:
    """Return a recipe by name, before it is adapted to the data.

    Args:
        name: "published", "deim", or the recipes that functions of the same name adapt to the data: "finetune" (here
            the published recipe) and "scratch" (here that of `deim`); or a model of the zoo, for the published recipe
            of that model.
        model: zoo name of the model to train, or the name of `network`.
        network: the model, if it is not in the zoo.

    Raises:
        ConfigError: the recipe or model is unknown. The message suggests the nearest name.
    """
    if name in (PUBLISHED, FINETUNE):
        return published(model, network)
    if name in (SCRATCH, DEIM):
        return deim(model, network)
    known = [*RECIPES, *zoo.list_models(), *zoo.ALIASES]
    if name not in known:
        raise ConfigError(f"unknown recipe {name!r}.{nearest(name, known)} Known: {', '.join(RECIPES)}, model names.")
    return zoo.recipe(name)


def published(model: str, network: ModelConfig | None = None) -> Recipe:
    """Return the published recipe of a zoo model, or the values that all of them share for a custom network.

    Raises:
        ConfigError: the model is unknown.
    """
    if network is not None and model not in (*zoo.list_models(), *zoo.ALIASES):
        return Recipe(grouping="modules")
    return zoo.recipe(model)


def deim(model: str, network: ModelConfig | None = None) -> Recipe:
    """Return the DEIM recipe of a model: the published one if it exists, otherwise that of a model of similar size.

    If no DEIM recipe is published for the model, its parameter groups are kept and their learning rates are scaled with
    the base learning rate.

    Source: arXiv 2412.04234.
    """
    own = published(model, network)
    if own.loss.classification == "mal" and own.schedule == "flat_cosine":
        return own
    same_network = f"deim_{zoo.ALIASES.get(model, model)}"
    if network is None and same_network in zoo.list_models():
        return zoo.recipe(same_network)
    backbone = (network or zoo.model_config(model)).backbone
    is_small = isinstance(backbone, PResNetConfig) and backbone.depth < 50
    recipe = zoo.recipe("deim_rtdetrv2_r18vd" if is_small else "deim_rtdetrv2_r50vd")
    groups = change(own, {"lr": recipe.lr}).groups
    recipe = recipe.replace(groups=groups, grouping=own.grouping)
    return change(recipe, {"train_size_hw": own.train_size_hw})


def shorten_warmups(recipe: Recipe, *, num_images: int) -> Recipe:
    """Return the recipe with warm-ups and an EMA horizon that fit its run, however short.

    Published recipes count them in steps of runs on COCO. Here the warm-up takes at most 5 % of the steps, and the EMA
    has a horizon of at most 5 % of the steps and a warm-up of at most a fifth of that. Long runs keep their values.

    Args:
        recipe: a recipe, with its final number of epochs and batch size.
        num_images: number of images per epoch.
    """
    steps = steps_of(recipe, num_images)
    horizon = max(steps / 20, 2)
    return recipe.replace(
        warmup_iterations=min(recipe.warmup_iterations, round(steps / 20)),
        ema_decay=min(recipe.ema_decay, 1 - 1 / horizon),
        ema_warmup=min(recipe.ema_warmup, round(horizon / 5)),
    )


def scratch(
    base: Recipe,
    *,
    num_images: int,
    batch_size: int | None = None,
    optimizer: Literal["adamw", "muon"] | None = None,
    random_backbone: bool = True,
) -> Recipe:
    """Return a recipe for training from random weights on a dataset of any size.

    Runs of at least `SHORT_RUN` steps are trained as DEIM, with the warm-ups of `shorten_warmups`. Shorter ones have
    the values of `short_run`, no multi-scale training, and, with a random backbone, Muon. `benchmarks/learning.py`
    measures the effect.

    Args:
        base: recipe of `deim` for the model, with its final number of epochs, and the batch size that its learning rate
            is for. The rate scales with the square root of the batch size.
        num_images: number of images per epoch.
        batch_size: images per batch; None: `fitting_batch`.
        optimizer: None: Muon in short runs with a random backbone, AdamW in others.
        random_backbone: the backbone has no pretrained weights, so it trains at the full learning rate.
    """
    batch_size = batch_size or fitting_batch(num_images)
    lr = base.lr * math.sqrt(batch_size / base.batch_size)
    base = change(base, {"batch_size": batch_size, "lr": lr})
    is_short = steps_of(base, num_images) < SHORT_RUN
    if is_short:
        base = short_run(base).replace(multiscale_sizes=())
    if random_backbone:
        base = base.replace(groups=tuple(group.replace(lr=None) for group in base.groups), backbone_lr=None)
    optimizer = optimizer or ("muon" if is_short and random_backbone else "adamw")
    return shorten_warmups(change(base, {"optimizer": optimizer}), num_images=num_images)


def short_run(recipe: Recipe) -> Recipe:
    """Return the recipe with the loss and the betas of a run of fewer than `SHORT_RUN` steps.

    The classification loss is MAL with twice the weight, and its target is the IoU itself (gamma 1). AdamW
    averages squared gradients over 20 steps (beta 0.95).
    """
    loss = recipe.loss.replace(classification="mal", gamma=1.0, classification_weight=2.0)
    return recipe.replace(betas=(0.9, 0.95), loss=loss)


def steps_of(recipe: Recipe, num_images: int) -> int:
    """Return the number of steps of a run with `num_images` images per epoch."""
    return recipe.epochs * max(num_images // recipe.batch_size, 1)


def finetune(
    base: Recipe,
    *,
    num_images: int,
    batch_size: int | None = None,
    epochs: int | None = None,
    random_backbone: bool = False,
) -> Recipe:
    """Return a recipe for fine-tuning pretrained weights on a dataset of any size.

    Published recipes count in iterations; here the values are fractions of the run: 5 % warm-up; a constant learning
    rate until the middle of the run, then a cosine decay to 5 %; an EMA horizon of 5 %; and no augmentation in the last
    sixth of the epochs. The learning rate scales with the square root of the batch size (arXiv 2205.10287, for AdamW).
    In runs of fewer than `SHORT_RUN` steps, it is up to 3 times higher, and the values of `short_run` apply
    (`benchmarks/learn.py` and `learning.py` measure the effects). The backbone keeps its published fraction of the rate
    (1 for r18vd, 1/100 for r101vd). The optimizer is AdamW. Norms, biases and embeddings have no weight decay; they are
    found by module type, because published patterns match names and miss some.

    Args:
        base: published recipe of the model: image sizes, loss, learning rate, and the batch size it is meant for.
        num_images: number of images per epoch.
        batch_size: images per batch; None: `fitting_batch`.
        epochs: number of epochs. None: 72 for 1000 images, proportional to 1 / sqrt(images), between 12 and 200.
        random_backbone: the backbone has no pretrained weights, so it trains at the full learning rate.
    """
    batch_size = batch_size or fitting_batch(num_images)
    if epochs is None:
        epochs = round(min(max(72 * math.sqrt(1000 / num_images), 12), 200))
    steps = epochs * max(num_images // batch_size, 1)
    speedup = min(max((SHORT_RUN / steps) ** 0.25, 1.0), 3.0)
    base = change(base, {"optimizer": "adamw"})
    lr = base.lr * math.sqrt(batch_size / base.batch_size) * speedup
    plain = max(round(epochs / 6), 1) if epochs > 1 else 0
    usual = Recipe()  # warm-ups and EMA as published for long runs
    fitted = base.replace(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        grouping="modules",
        groups=(),
        backbone_lr=lr if random_backbone else lr * _backbone_share(base),
        schedule="flat_cosine",
        flat_epochs=epochs // 2,
        no_augmentation_epochs=0,
        final_lr_factor=0.05,
        warmup_iterations=usual.warmup_iterations,
        ema_decay=usual.ema_decay,
        ema_warmup=usual.ema_warmup,
        augmentation_start_epoch=0,
        augmentation_stop_epoch=epochs - plain,
        mosaic=0.0,
        mixup=0.0,
        copy_paste=0.0,
        zoom_in=0.0,
        repeats=1,
        mixing_stop_epoch=None,
        multiscale_stop_epoch=epochs - plain,
        tuning_from=None,
    )
    if steps < SHORT_RUN:
        fitted = short_run(fitted)
    return shorten_warmups(fitted, num_images=num_images)


def fitting_batch(num_images: int) -> int:
    """Return the images per batch for an epoch of `num_images`: 16, or down to 4 so that it has at least 8 batches."""
    batch_size = 16
    while batch_size > 4 and num_images < 8 * batch_size:
        batch_size //= 2
    return batch_size


def _backbone_share(recipe: Recipe) -> float:
    """Learning rate of the backbone convolutions, relative to the base learning rate."""
    if recipe.grouping == "modules":
        own = recipe.backbone_lr
    else:
        name = "backbone.res_layers.0.blocks.0.branch2a.conv.weight"  # not a norm or bias
        own = next((group.lr for group in recipe.groups if re.search(group.pattern, name)), None)
    return 1.0 if own is None else own / recipe.lr
