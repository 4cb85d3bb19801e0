"""Change values of a recipe by dotted name, together with the values that depend on them."""

from collections.abc import Iterable, Iterator, Mapping

import yaml

from rtdetr.config import PUBLISHED_GAMMA, STRIDE, LossConfig, Recipe, SizeHW, size_problem
from rtdetr.errors import ConfigError
from rtdetr.yaml_files import parse_yaml

MUON_RATE = 12.0  # learning rate with Muon, relative to that with AdamW; `benchmarks/learning.py` measures its effect
_RELATIVE_RATE = {"adamw": 1.0, "muon": MUON_RATE}


def change(recipe: Recipe, values: Mapping[str, object]) -> Recipe:
    """Return the recipe with values changed, together with the values that depend on them.

    - `epochs`: augmentation and multi-scale stop the same number of epochs before the end; other values in epochs are
      scaled with the length of the run.
    - `train_size_hw`: multi-scale sizes are scaled accordingly.
    - `loss.classification`: `loss.gamma` and `loss.classification_weight` become the published values of that loss.
    - `optimizer`: all learning rates are multiplied or divided by `MUON_RATE`, unless `lr` is among the values.
    - `lr`: the learning rates of the parameter groups and of the backbone are scaled accordingly. The batch size does
      not change the learning rate.

    Args:
        values: values by dotted name, such as {"lr": 2e-4, "loss.bbox_weight": "4"}, or nested, {"loss": ...}; strings
            are parsed as YAML. They take precedence over dependent values.

    Raises:
        ConfigError: a setting is unknown (the message suggests the nearest one), or a value is invalid.
    """
    values = dict(_by_dotted_name(values))
    if isinstance(size_hw := values.get("train_size_hw"), tuple):  # from --size; the message has the nearest sizes
        _check_size(size_hw)
    checked = _with_values(recipe, {name: values[name] for name in _DEPENDENTS if name in values})
    dependents = [dependent(recipe, checked) for name, dependent in _DEPENDENTS.items() if name in values]
    return _with_values(recipe, {name: value for changed in (*dependents, values) for name, value in changed.items()})


def _by_dotted_name(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _by_dotted_name(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _with_values(recipe: Recipe, values: Mapping[str, object]) -> Recipe:
    """Return the recipe with single values replaced, by dotted name."""
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


def _with_epochs(recipe: Recipe, changed: Recipe) -> dict[str, object]:
    epochs, longer = changed.epochs, changed.epochs - recipe.epochs
    stops = {name: getattr(recipe, name) for name in ("augmentation_stop_epoch", "multiscale_stop_epoch")}
    values: dict[str, object] = {name: max(stop + longer, 0) for name, stop in stops.items() if stop}  # 0: disabled
    for name in ("augmentation_start_epoch", "flat_epochs", "mixing_stop_epoch"):
        share = getattr(recipe, name)
        values[name] = None if share is None else round(share * epochs / recipe.epochs)
    values["milestones"] = tuple(max(round(one * epochs / recipe.epochs), 1) for one in recipe.milestones)
    return values


def _with_size(recipe: Recipe, changed: Recipe) -> dict[str, object]:
    _check_size(changed.train_size_hw)
    ratio = max(changed.train_size_hw) / max(recipe.train_size_hw)
    sides = tuple(max(round(side * ratio / STRIDE), 1) * STRIDE for side in recipe.multiscale_sizes)
    return {"multiscale_sizes": sides}


def _with_optimizer(recipe: Recipe, changed: Recipe) -> dict[str, object]:
    factor = _RELATIVE_RATE[changed.optimizer] / _RELATIVE_RATE[recipe.optimizer]
    return {"lr": recipe.lr * factor, **_scaled_rates(recipe, factor)}


def _with_rate(recipe: Recipe, changed: Recipe) -> dict[str, object]:
    return _scaled_rates(recipe, changed.lr / recipe.lr)


def _scaled_rates(recipe: Recipe, factor: float) -> dict[str, object]:
    return {
        "groups": tuple(one if one.lr is None else one.replace(lr=one.lr * factor) for one in recipe.groups),
        "backbone_lr": None if recipe.backbone_lr is None else recipe.backbone_lr * factor,
    }


def _with_class_loss(recipe: Recipe, changed: Recipe) -> dict[str, object]:
    if changed.loss.classification == recipe.loss.classification:
        return {}
    return {
        "loss.gamma": PUBLISHED_GAMMA[changed.loss.classification],
        "loss.classification_weight": LossConfig().classification_weight,
    }


def _check_size(size_hw: SizeHW) -> None:
    if problem := size_problem(size_hw):
        raise ConfigError(f"image size (--size, Python: size_hw): {problem}")


_DEPENDENTS = {
    "optimizer": _with_optimizer,  # before lr, which takes precedence
    "epochs": _with_epochs,
    "train_size_hw": _with_size,
    "lr": _with_rate,
    "loss.classification": _with_class_loss,
}
"""Functions that return the values that depend on a setting."""
