"""The data sections of a published file: where the images are, what is done with them, and how they are batched."""

import os
from pathlib import PurePosixPath
from typing import Any

from rtdetr.training.published.section import (
    Section,
    anything,
    list_of,
    mapping,
    number,
    one_of,
    or_none,
    text,
    whole,
)

STRONG = ("RandomPhotometricDistort", "RandomZoomOut", "RandomIoUCrop")
_COLLATE = ("BatchImageCollateFunction", "BatchImageCollateFuncion", "default_collate_fn")  # released as Funcion
_AUGMENTATION = "the augmentation is the published one"
_PREPARED = "images are numbers from 0 to 1 and boxes normalised centres and sizes"
_ORDER = "images are stretched to the size, after what changes their content"


def read_train_data(root: Section) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the recipe values of the training data; both are empty where the file has none.

    Raises:
        ConfigError: a value that cannot be had, or a key that is unknown.
    """
    loader = root.inside("train_dataloader")
    if loader is None:
        return {}, {}
    settings, recipe = _dataset(loader, "data", "images")
    recipe |= _collate(loader)
    recipe |= _batch_size(loader)
    loader.only("shuffle", True, why="training data comes in a new order each epoch", left_out=False)
    loader.only("drop_last", True, why="images that do not fill the last batch wait for another epoch", left_out=False)
    workers = loader.take("num_workers", or_none(whole()), None)
    if workers is not None:
        settings["workers"] = workers
    _finish_loader(loader)
    return settings, recipe


def read_val_data(root: Section) -> tuple[dict[str, Any], list[int] | None]:
    """Return the settings of the validation data, and height and width of its images where the file says them.

    Raises:
        ConfigError: a value that cannot be had, or a key that is unknown.
    """
    loader = root.inside("val_dataloader")
    if loader is None:
        return {}, None
    settings, recipe = _dataset(loader, "val_data", "val_images")
    if recipe.get("augmentation_stop_epoch", 0) != 0 or recipe.get("flip", 0) != 0:
        raise loader.error("expected no augmentation of the images that are evaluated")
    if _collate(loader)["multiscale_sizes"]:
        raise loader.error("expected no scales for the images that are evaluated", "collate_fn")
    loader.ignore("total_batch_size", "batch_size", "num_workers")
    loader.only("shuffle", False, why="an evaluation does not depend on the order")
    loader.only("drop_last", False, why="all images are evaluated")
    _finish_loader(loader)
    size = recipe.get("train_size_hw")
    return settings, None if size is None else list(size)


def _finish_loader(loader: Section) -> None:
    loader.only("type", "DataLoader", why="there is one loader")
    loader.ignore("pin_memory", "persistent_workers", "prefetch_factor")
    loader.finish()


def _dataset(loader: Section, data: str, images: str) -> tuple[dict[str, str], dict[str, Any]]:
    dataset = loader.inside("dataset")
    if dataset is None:
        return {}, {}
    kind = dataset.take("type", one_of("CocoDetection", "VOCDetection"), "CocoDetection")
    recipe = _transforms(dataset)
    settings: dict[str, str] = {}
    if kind == "VOCDetection":
        root = dataset.take("root", text)
        settings[data] = str(PurePosixPath(root) / dataset.take("ann_file", text, "trainval.txt"))
        dataset.only("label_file", "label_list.txt", why="class names are read from label_list.txt beside the list")
    else:
        for name, key in ((data, "ann_file"), (images, "img_folder")):
            value = dataset.take(key, or_none(text), None)
            if value is not None:
                settings[name] = value
        dataset.only("return_masks", False, why="only boxes are detected")
        dataset.ignore("remap_mscoco_category")
    dataset.finish()
    return settings, recipe


def _transforms(dataset: Section) -> dict[str, Any]:
    """What is done with an image; without the section, nothing."""
    section = dataset.inside("transforms")
    if section is None:
        return {"augmentation_stop_epoch": 0, "flip": 0.0}
    section.only("type", "Compose", why="operations follow each other")
    ops = section.take("ops", or_none(list_of(mapping)), None) or []
    recipe: dict[str, Any] = {"flip": 0.0}
    names = [_op(section, index, op, recipe) for index, op in enumerate(ops)]
    in_order = [name for name in names if name in (*STRONG, "Resize")]
    if in_order[-1:] != ["Resize"] and in_order:
        raise section.error(f"{_ORDER}; expected Resize after {in_order[-1]}", "ops")
    strong = [name for name in in_order if name != "Resize"]
    if strong and tuple(strong) != STRONG:
        raise section.error(f"{_AUGMENTATION}; expected {', '.join(STRONG)} together, got {', '.join(strong)}", "ops")
    stop = _policy(section)
    section.finish()
    return {**recipe, "augmentation_stop_epoch": stop if strong else 0}


def _op(section: Section, index: int, values: dict[str, Any], recipe: dict[str, Any]) -> str:
    """Read one operation, put what can be chosen into `recipe`, and return its name, today's where there are two."""
    op = Section(section.document, values, (*section.at, "ops", str(index)))
    kinds = (*STRONG, "SanitizeBoundingBoxes", "RandomHorizontalFlip", "Resize", "ConvertPILImage", "ConvertBoxes")
    older = {"SanitizeBoundingBox": "SanitizeBoundingBoxes", "ConvertBox": "ConvertBoxes"}
    pictures = ("ToImageTensor", "ConvertDtype", "ConvertImageDtype")
    name = op.take("type", one_of(*kinds, *older, *pictures))
    name = older.get(name, "ConvertPILImage" if name in pictures else name)
    if name == "RandomPhotometricDistort":
        op.only("p", 0.5, why=_AUGMENTATION)
    elif name == "RandomZoomOut":
        op.only("p", 0.5, why=_AUGMENTATION)
        op.only("fill", 0, why="what is outside an image is black")
    elif name == "RandomIoUCrop":
        op.only("p", 0.8, why=_AUGMENTATION, left_out=1.0)
    elif name == "RandomHorizontalFlip":
        recipe["flip"] = op.take("p", number, 0.5)
    elif name == "Resize":
        size = op.take("size", lambda value: [value, value] if isinstance(value, int) else list_of(whole(1))(value))
        if len(size) != 2:
            raise op.error(f"expected height and width, got {size}", "size")
        recipe["train_size_hw"] = tuple(size)
    elif name == "SanitizeBoundingBoxes":
        op.only("min_size", 1, 1.0, why="boxes of less than a pixel are left out")
    elif name == "ConvertPILImage":
        op.only("dtype", "float32", why=_PREPARED)
        op.only("scale", True, why=_PREPARED)
    else:
        op.only("out_fmt" if "out_fmt" in op else "fmt", "cxcywh", why=_PREPARED, left_out="")
        op.only("normalize", True, why=_PREPARED, left_out=False)
    op.finish()
    return name


def _policy(section: Section) -> int | None:
    """The epoch from which on strong augmentation is off; None: it never is."""
    policy = section.inside("policy")
    if policy is None:
        return None
    name = policy.take("name", one_of("stop_epoch", "default"), "default")
    epoch = policy.take("epoch", or_none(whole()), None)
    ops = policy.take("ops", or_none(list_of(text)), None) or []
    policy.finish()
    if name == "default":
        return None
    if sorted(ops) != sorted(STRONG):
        raise policy.error(f"colour, zoom-out and crop stop together; expected {', '.join(STRONG)}, got {ops}", "ops")
    return epoch


def _collate(loader: Section) -> dict[str, Any]:
    values = loader.take("collate_fn", anything, None)
    none: dict[str, Any] = {"multiscale_sizes": (), "multiscale_stop_epoch": None}
    if not isinstance(values, dict):
        if values not in (None, *_COLLATE):
            raise loader.error(f"expected {' or '.join(_COLLATE)}, got {values!r}", "collate_fn")
        return none
    section = Section(loader.document, values, (*loader.at, "collate_fn"))
    section.take("type", one_of(*_COLLATE))
    scales = section.take("scales", or_none(list_of(whole(32))), None)
    stop = section.take("stop_epoch", or_none(whole()), None)
    section.finish()
    if not scales:
        return none
    uneven = [side for side in scales if side % 32]
    if uneven:
        raise section.error(f"expected multiples of 32, got {uneven[0]}", "scales")
    return {"multiscale_sizes": tuple(scales), "multiscale_stop_epoch": stop}


def _batch_size(loader: Section) -> dict[str, int]:
    """The batch over all processes; `batch_size` is that of one of them."""
    total = loader.take("total_batch_size", or_none(whole(1)), None)
    own = loader.take("batch_size", or_none(whole(1)), None)
    if total is not None and own is not None:
        raise loader.error("expected total_batch_size or batch_size, got both")
    if own is not None:
        total = own * int(os.environ.get("WORLD_SIZE", "1"))
    if total is None:
        raise loader.error("expected total_batch_size or batch_size, got neither")
    return {"batch_size": total}
