"""The data sections of a published file: datasets, transforms and batching."""

import os
from pathlib import PurePosixPath
from typing import Any

from rtdetr.published.network import multiscale_sides
from rtdetr.published.section import Section, anything, list_of, mapping, number, one_of, or_none, text, whole

DATA_KEYS = {
    "data": "train_dataloader.dataset.ann_file",
    "images": "train_dataloader.dataset.img_folder",
    "val_data": "val_dataloader.dataset.ann_file",
    "val_images": "val_dataloader.dataset.img_folder",
}
"""Our data settings, and their keys in a published file."""

MOSAIC = "Mosaic"
STRONG = ("RandomPhotometricDistort", "RandomZoomOut", "RandomIoUCrop")
_COLLATE = ("BatchImageCollateFunction", "BatchImageCollateFuncion", "default_collate_fn")  # misspelled in the release
_AUGMENTATION = "the augmentation is the published one"
_PREPARED = "images are in the range 0 to 1, and boxes are normalized cxcywh"
_ORDER = "images are resized after augmentation"


def read_train_data(root: Section) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the recipe values of the training data; both are empty if the file has none.

    Raises:
        ConfigError: a value is not supported, or a key is unknown.
    """
    loader = root.inside("train_dataloader")
    if loader is None:
        return {}, {}
    settings, recipe = _dataset(loader, "data", "images")
    recipe |= _collate(loader)
    _check_mixing(loader, recipe)
    recipe |= _batch_size(loader)
    loader.only("shuffle", True, why="training data is shuffled in each epoch", left_out=False)
    loader.only("drop_last", True, why="an incomplete last batch is dropped", left_out=False)
    workers = loader.take("num_workers", or_none(whole()), None)
    if workers is not None:
        settings["workers"] = workers
    _finish_loader(loader)
    return settings, recipe


def read_val_data(root: Section) -> tuple[dict[str, Any], list[int] | None]:
    """Return the settings of the validation data, and the input height and width, if the file specifies them.

    Raises:
        ConfigError: a value is not supported, or a key is unknown.
    """
    loader = root.inside("val_dataloader")
    if loader is None:
        return {}, None
    settings, recipe = _dataset(loader, "val_data", "val_images")
    if recipe.get("augmentation_stop_epoch", 0) != 0 or recipe.get("flip", 0) != 0:
        raise loader.error("expected no augmentation of validation images")
    if _collate(loader)["multiscale_sizes"]:
        raise loader.error("expected no scales for validation images", "collate_fn")
    loader.ignore("total_batch_size", "batch_size", "num_workers")
    loader.only("shuffle", False, why="an evaluation does not depend on the order")
    loader.only("drop_last", False, why="all images are evaluated")
    _finish_loader(loader)
    size = recipe.get("train_size_hw")
    return settings, None if size is None else list(size)


def _finish_loader(loader: Section) -> None:
    loader.only("type", "DataLoader", why="there is only one data loader")
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
        dataset.only("label_file", "label_list.txt", why="class names are read from label_list.txt next to the list")
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
    """Read the transforms of a dataset; without the section there are none."""
    section = dataset.inside("transforms")
    if section is None:
        return {"augmentation_stop_epoch": 0, "flip": 0.0}
    section.only("type", "Compose", why="transforms run one after the other")
    ops = section.take("ops", or_none(list_of(mapping)), None) or []
    recipe: dict[str, Any] = {"flip": 0.0}
    names = [_op(section, index, op, recipe) for index, op in enumerate(ops)]
    in_order = [name for name in names if name in (MOSAIC, *STRONG, "Resize")]
    if in_order[-1:] != ["Resize"] and in_order:
        raise section.error(f"{_ORDER}; expected Resize after {in_order[-1]}", "ops")
    strong = tuple(name for name in in_order if name != "Resize")
    if strong not in ((), STRONG, (MOSAIC, *STRONG)):
        expected = f"{', '.join(STRONG)} together, optionally after {MOSAIC}"
        raise section.error(f"{_AUGMENTATION}; expected {expected}, got {', '.join(strong)}", "ops")
    mosaic = section.take("mosaic_prob", number, 0.0)
    if MOSAIC in strong:
        recipe["mosaic"] = mosaic
    recipe |= _policy(section, strong)
    section.finish()
    return recipe


def _op(section: Section, index: int, values: dict[str, Any], recipe: dict[str, Any]) -> str:
    """Read one transform, store its settings in `recipe`, and return its current name."""
    op = Section(section.document, values, (*section.at, "ops", str(index)))
    kinds = (
        MOSAIC,
        *STRONG,
        "SanitizeBoundingBoxes",
        "RandomHorizontalFlip",
        "Resize",
        "ConvertPILImage",
        "ConvertBoxes",
    )
    older = {"SanitizeBoundingBox": "SanitizeBoundingBoxes", "ConvertBox": "ConvertBoxes"}
    conversions = ("ToImageTensor", "ConvertDtype", "ConvertImageDtype")
    name = op.take("type", one_of(*kinds, *older, *conversions))
    name = older.get(name, "ConvertPILImage" if name in conversions else name)
    if name == MOSAIC:
        _check_mosaic(op)
    elif name == "RandomPhotometricDistort":
        op.only("p", 0.5, why=_AUGMENTATION)
    elif name == "RandomZoomOut":
        op.only("p", 0.5, why=_AUGMENTATION)
        op.only("fill", 0, why="the area outside an image is black")
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
        op.only("min_size", 1, 1.0, why="boxes smaller than a pixel are dropped")
    elif name == "ConvertPILImage":
        op.only("dtype", "float32", why=_PREPARED)
        op.only("scale", True, why=_PREPARED)
    else:
        op.only("out_fmt" if "out_fmt" in op else "fmt", "cxcywh", why=_PREPARED, left_out="")
        op.only("normalize", True, why=_PREPARED, left_out=False)
    op.finish()
    return name


def _check_mosaic(op: Section) -> None:
    built_in = {
        "output_size": 320,
        "rotation_range": 10,
        "translation_range": [0.1, 0.1],
        "scaling_range": [0.5, 1.5],
        "probability": 1.0,
        "fill_value": 0,
    }
    for key, value in built_in.items():
        if key not in op:
            raise op.error(f"expected the key {key!r}")
        op.only(key, value, why="the mosaic is the published one")
    op.ignore("use_cache", "max_cached_images", "random_pop")


def _policy(section: Section, strong: tuple[str, ...]) -> dict[str, Any]:
    """Return the first and last epochs of strong augmentation; None: to the end."""
    policy = section.inside("policy")
    if policy is None or not strong:
        return {"augmentation_stop_epoch": None if strong else 0}
    name = policy.take("name", one_of("stop_epoch", "default"), "default")
    epochs = policy.take("epoch", or_none(_epochs), None)
    ops = policy.take("ops", or_none(list_of(text)), None) or []
    policy.finish()
    if name == "default":
        return {"augmentation_stop_epoch": None}
    if sorted(ops) != sorted(strong):
        raise policy.error(f"all strong augmentation stops together; expected {', '.join(strong)}, got {ops}", "ops")
    if isinstance(epochs, list):
        return dict(
            zip(("augmentation_start_epoch", "mixing_stop_epoch", "augmentation_stop_epoch"), epochs, strict=True)
        )
    if MOSAIC in strong:
        raise policy.error(f"expected three epochs: start of all, end of {MOSAIC}, end of all; got {epochs}", "epoch")
    return {"augmentation_stop_epoch": epochs}


def _epochs(value: Any) -> int | list[int]:
    """Check an epoch, or the three epochs in DEIM's files."""
    if not isinstance(value, list):
        return whole()(value)
    if len(value) != 3:
        raise ValueError("one epoch or three")
    return list_of(whole())(value)


def _check_mixing(loader: Section, recipe: dict[str, Any]) -> None:
    """Check that mixup runs in the same epochs as mosaic."""
    window = recipe.pop("mixup_epochs", None)
    own = [recipe.get("augmentation_start_epoch", 0), recipe.get("mixing_stop_epoch")]
    if recipe.get("mixup") and window != own:
        why = "mixup runs in the epochs given by the first two numbers of the policy"
        raise Section(loader.document, {}, (*loader.at, "collate_fn")).error(
            f"{why}; expected {own}, got {window}", "mixup_epochs"
        )


def _collate(loader: Section) -> dict[str, Any]:
    values = loader.take("collate_fn", anything, None)
    none: dict[str, Any] = {"multiscale_sizes": (), "multiscale_stop_epoch": None}
    if not isinstance(values, dict):
        if values not in (None, *_COLLATE):
            raise loader.error(f"expected {' or '.join(_COLLATE)}, got {values!r}", "collate_fn")
        return none
    section = Section(loader.document, values, (*loader.at, "collate_fn"))
    section.take("type", one_of(*_COLLATE))
    section.ignore("ema_restart_decay")
    scales = multiscale_sides(section, "scales") or _sides_around(section)
    stop = section.take("stop_epoch", or_none(whole()), None)
    mixup = section.take("mixup_prob", number, 0.0)
    window = section.take("mixup_epochs", or_none(list_of(whole())), None)
    section.finish()
    mixing = {"mixup": mixup, "mixup_epochs": window} if mixup else {}
    return mixing | ({"multiscale_sizes": scales, "multiscale_stop_epoch": stop} if scales else none)


def _sides_around(section: Section) -> tuple[int, ...]:
    """Return the sizes of DEIM's files: from -25 % to +25 % in steps of 32, with the base size repeated."""
    middle = section.take("base_size", whole(32), 640)
    repeats = section.take("base_size_repeat", or_none(whole(1)), None)
    if repeats is None:
        return ()
    if middle % 128:
        raise section.error(f"expected a multiple of 128, got {middle}", "base_size")
    around = range(middle * 3 // 4, middle * 5 // 4 + 1, 32)
    return tuple(sorted([*around, *[middle] * (repeats - 1)]))


def _batch_size(loader: Section) -> dict[str, int]:
    """Return the batch size over all processes; `batch_size` in the file is per process."""
    total = loader.take("total_batch_size", or_none(whole(1)), None)
    own = loader.take("batch_size", or_none(whole(1)), None)
    if total is not None and own is not None:
        raise loader.error("expected total_batch_size or batch_size, got both")
    if own is not None:
        total = own * int(os.environ.get("WORLD_SIZE", "1"))
    if total is None:
        raise loader.error("expected total_batch_size or batch_size, got neither")
    return {"batch_size": total}
