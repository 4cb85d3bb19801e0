"""Change a recipe: its epochs, image size or learning rate, or any single value by dotted name."""

from collections.abc import Iterable, Mapping

import yaml

from rtdetr.config import STRIDE, Recipe, SizeHW, size_problem
from rtdetr.errors import ConfigError
from rtdetr.yaml_files import parse_yaml

_ADAPTED = {"epochs": "epochs", "batch_size": "batch_size", "train_size_hw": "size_hw", "lr": "lr"}  # names in `adapt`


def adapt(
    recipe: Recipe,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    size_hw: SizeHW | None = None,
    lr: float | None = None,
    precision: str | None = None,
) -> Recipe:
    """Return the recipe with a few values changed, together with the values that depend on them.

    Args:
        epochs: length of the run. Augmentation and multi-scale stop the same number of epochs before the end; other
            values in epochs are scaled with the length.
        batch_size: images per step. The learning rate does not change.
        size_hw: height and width of the training images, multiples of 32. Multi-scale sizes are scaled accordingly.
        lr: base learning rate; the rates of the parameter groups and of the backbone are scaled accordingly.
        precision: "float32", "bfloat16", "float16" or "auto".

    Raises:
        ConfigError: a value is invalid.
    """
    changes: dict[str, object] = {"batch_size": batch_size, "precision": precision}
    if epochs is not None:
        changes |= _with_epochs(recipe, epochs)
    if size_hw is not None:
        changes |= _with_size(recipe, size_hw)
    if lr is not None:
        scaled = [g if g.lr is None else g.replace(lr=g.lr * lr / recipe.lr) for g in recipe.groups]
        backbone_lr = None if recipe.backbone_lr is None else recipe.backbone_lr * lr / recipe.lr
        changes |= {"lr": lr, "groups": tuple(scaled), "backbone_lr": backbone_lr}
    return recipe.replace(**{key: value for key, value in changes.items() if value is not None})


def change(recipe: Recipe, values: Mapping[str, object]) -> Recipe:
    """Return the recipe with values changed: those that others depend on first (`adapt`), then the rest (`override`).

    Raises:
        ConfigError: as for `adapt` and `override`.
    """
    first = [name for name in _ADAPTED if name in values]
    if isinstance(size_hw := values.get("train_size_hw"), tuple):  # from --size; the message has the nearest sizes
        _check_size(size_hw)
    checked = override(recipe, {name: values[name] for name in first})  # validate before use
    adapted = adapt(recipe, **{_ADAPTED[name]: getattr(checked, name) for name in first})
    return override(adapted, {name: value for name, value in values.items() if name not in first})


def override(recipe: Recipe, values: Mapping[str, object]) -> Recipe:
    """Return the recipe with single values replaced.

    Args:
        values: values by dotted name, such as {"lr": 2e-4, "loss.bbox_weight": "4"}; strings are parsed as YAML.

    Raises:
        ConfigError: a setting is unknown (the message suggests the nearest one), or a value is invalid.
    """
    for name, value in values.items():
        if isinstance(value, str):
            value = parse(name, value)
        for part in reversed(name.split(".")[1:]):
            value = {part: value}
        recipe = recipe.replace(**{name.split(".")[0]: value})
    return recipe


def parse_assignments(assignments: Iterable[str], *, option: str = "--set") -> dict[str, str]:
    """Parse command-line assignments such as ["lr=2e-4", ...] into a mapping; messages name the option.

    Raises:
        ConfigError: an item has no "=".
    """
    pairs = [item.partition("=") for item in assignments]
    for name, equals, value in pairs:
        if not (name and equals):
            raise ConfigError(f"{option}: expected NAME=VALUE, such as train.lr=2e-4, got {name + equals + value!r}")
    return {name.strip(): value for name, _, value in pairs}


def parse(name: str, value: str) -> object:
    """Parse a value as YAML; "1e-4" is a number.

    Raises:
        ConfigError: it is not a valid value; the message begins with `name`.
    """
    try:
        return parse_yaml(value)
    except yaml.YAMLError:
        raise ConfigError(
            f"{name}: {value!r} is not a valid value. Expected a number, true, null, a word or [a, list]."
        ) from None


def _with_epochs(recipe: Recipe, epochs: int) -> dict[str, object]:
    longer = epochs - recipe.epochs
    stops = {name: getattr(recipe, name) for name in ("augmentation_stop_epoch", "multiscale_stop_epoch")}
    changes: dict[str, object] = {name: max(stop + longer, 0) for name, stop in stops.items() if stop}  # 0: disabled
    for name in ("augmentation_start_epoch", "flat_epochs", "mixing_stop_epoch"):
        share = getattr(recipe, name)
        changes[name] = None if share is None else round(share * epochs / recipe.epochs)
    changes["milestones"] = tuple(max(round(one * epochs / recipe.epochs), 1) for one in recipe.milestones)
    return {"epochs": epochs, **changes}


def _check_size(size_hw: SizeHW) -> None:
    if problem := size_problem(size_hw):
        raise ConfigError(f"image size (--size, Python: size_hw): {problem}")


def _with_size(recipe: Recipe, size_hw: SizeHW) -> dict[str, object]:
    _check_size(size_hw)
    ratio = max(size_hw) / max(recipe.train_size_hw)
    sides = tuple(max(round(side * ratio / STRIDE), 1) * STRIDE for side in recipe.multiscale_sizes)
    return {"train_size_hw": size_hw, "multiscale_sizes": sides}
