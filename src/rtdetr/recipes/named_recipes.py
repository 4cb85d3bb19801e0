"""Recipes by name: `published` as in the papers, `finetune` made for the data at hand, `deim` for the best accuracy.

A zoo name is a recipe as well: the published one of that model.
"""

import math
import re

from rtdetr import zoo
from rtdetr.config import ModelConfig, PResNetConfig, Recipe
from rtdetr.errors import ConfigError, nearest
from rtdetr.recipes.changes import adapt

PUBLISHED, FINETUNE, DEIM = RECIPES = ("published", "finetune", "deim")
AUTO = "auto"  # where no recipe is named: finetune or published, as the data decides (`resolve.py`)


def named_recipe(name: str, model: str, network: ModelConfig | None = None) -> Recipe:
    """Return a recipe that does not depend on the data.

    Args:
        name: "published", "deim", or the zoo name of a model whose recipe is meant.
        model: zoo name of the model to train, or the name of `network`.
        network: the model where it is not in the zoo.

    Raises:
        ConfigError: no such recipe or model; the nearest name is given.
    """
    if name == PUBLISHED:
        return published(model, network)
    if name == DEIM:
        return deim(model, network)
    known = [*RECIPES, *zoo.list_models(), *zoo.ALIASES]
    if name not in known:
        raise ConfigError(f"unknown recipe {name!r}.{nearest(name, known)} Known: {', '.join(RECIPES)}, zoo names.")
    return zoo.recipe(name)


def published(model: str, network: ModelConfig | None = None) -> Recipe:
    """Return the published recipe of a zoo model; for a network of one's own, the values common to all of them.

    Raises:
        ConfigError: no such model.
    """
    if network is not None and model not in (*zoo.list_models(), *zoo.ALIASES):
        return Recipe(grouping="modules")
    return zoo.recipe(model)


def deim(model: str, network: ModelConfig | None = None) -> Recipe:
    """Return the DEIM recipe for any model: the published one for it, else that of the models of its size.

    Where none is published for the model, its parameter groups stay, and their rates grow with the base rate.

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
    groups = adapt(own, lr=recipe.lr).groups
    return adapt(recipe.replace(groups=groups, grouping=own.grouping), size_hw=own.train_size_hw)


def finetune(
    base: Recipe,
    *,
    num_images: int,
    batch_size: int | None = None,
    epochs: int | None = None,
    from_scratch: bool = False,
) -> Recipe:
    """Return a recipe for weights that know much already and a dataset of any size.

    Everything that a published recipe counts in iterations is a share of the run's own: 5 % warm-up; the rate stays
    until the middle and falls to 5 % along a cosine; the average looks back over a twentieth of the run; the last sixth
    of the epochs sees plain images. The rate grows with the square root of the batch (arXiv 2205.10287, for AdamW) and
    is raised in runs of less than 20,000 steps, up to threefold (`benchmarks/learn.py` shows what that brings); the
    backbone's keeps its published share of it (all for r18vd, a hundredth for r101vd). Weight decay leaves out norms,
    biases and embeddings by their type (a published pattern misses some by their name).

    Args:
        base: the model's published recipe: image sizes, loss, the rate and the batch it belongs to.
        num_images: that an epoch shows.
        batch_size: images per batch; None: 16, or fewer so that an epoch has 8 batches, but at least 4.
        epochs: None: 72 for 1000 images, in proportion to 1 / sqrt(images) for others, from 12 to 200.
        from_scratch: nothing is known yet: the backbone trains at the full rate.
    """
    if batch_size is None:
        batch_size = 16
        while batch_size > 4 and num_images < 8 * batch_size:
            batch_size //= 2
    if epochs is None:
        epochs = round(min(max(72 * math.sqrt(1000 / num_images), 12), 200))
    steps = epochs * max(num_images // batch_size, 1)
    haste = min(max((20_000 / steps) ** 0.25, 1.0), 3.0)
    lr = base.lr * math.sqrt(batch_size / base.batch_size) * haste
    plain = max(round(epochs / 6), 1) if epochs > 1 else 0
    horizon = min(max(steps / 20, 2), 10_000)  # steps that the average looks back; published: 10,000
    return base.replace(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        grouping="modules",
        groups=(),
        backbone_lr=lr if from_scratch else lr * _backbone_share(base),
        schedule="flat_cosine",
        flat_epochs=epochs // 2,
        no_augmentation_epochs=0,
        final_lr_factor=0.05,
        warmup_iterations=min(round(steps / 20), 2000),
        ema_decay=1 - 1 / horizon,
        ema_warmup=round(horizon / 5),
        augmentation_start_epoch=0,
        augmentation_stop_epoch=epochs - plain,
        mosaic=0.0,
        mixup=0.0,
        mixing_stop_epoch=None,
        multiscale_stop_epoch=epochs - plain,
        tuning_from=None,
    )


def _backbone_share(recipe: Recipe) -> float:
    """The rate of the backbone's convolutions over the recipe's rate."""
    if recipe.grouping == "modules":
        own = recipe.backbone_lr
    else:
        name = "backbone.res_layers.0.blocks.0.branch2a.conv.weight"  # any that no pattern for norms or biases matches
        own = next((group.lr for group in recipe.groups if re.search(group.pattern, name)), None)
    return 1.0 if own is None else own / recipe.lr
