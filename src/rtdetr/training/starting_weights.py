"""Load the starting weights of a new run: a whole model, a backbone, or none."""

import logging
from operator import attrgetter
from pathlib import Path

from rtdetr import zoo
from rtdetr.categories import Categories
from rtdetr.config import ModelConfig, TrainConfig
from rtdetr.errors import ConfigError
from rtdetr.models import RTDETR
from rtdetr.training.class_rows import rows_are_ids
from rtdetr.weights import LoadedWeights, default_categories, load_backbone, read_checkpoint, transfer

_log = logging.getLogger(__name__)
# network settings that the weights depend on but that are not visible in their entries
_HIDDEN_SETTINGS = ("encoder.num_heads", "encoder.temperature", "decoder.num_heads", "pixel_mean", "pixel_std")


def load_starting_weights(config: TrainConfig, model: RTDETR, categories: Categories, *, dry_run: bool) -> None:
    """Load the starting weights of a new run into its network.

    Args:
        config: settings of the run, including the weights; without weights, the network keeps its random ones.
        model: the network, with the classes of the data.
        categories: classes of the data; class rows of the weights are matched by name.
        dry_run: skip weights that would be downloaded.

    Raises:
        ConfigError, WeightsError: the weights do not exist or do not fit.
    """
    published = config.recipe.tuning_from or config.model
    backbone_weights = config.backbone_weights
    is_pretrained = config.network is not None and config.network.backbone.is_pretrained
    if config.weights is None and backbone_weights is None and is_pretrained:
        if not dry_run:
            model.backbone.load_pretrained()
        return
    if config.weights is None and backbone_weights == "auto":
        backbone_weights = zoo.backbone_url(model.config)
        if backbone_weights is None:
            raise ConfigError(
                f"{config.model} has no published backbone weights: give a file, or --backbone-weights none"
            )
    if dry_run and is_fetched(config.weights or backbone_weights):
        return
    if config.weights is not None:
        loaded = read_checkpoint(config.weights, model=config.network or config.model)
        _check_hidden_settings(config.weights, loaded.stated, model.config)
        names = names_of_rows(loaded, categories, labels_are_ids=config.labels_are_ids)
        report = transfer(model, loaded.state, source_names=names, target_names=categories.names)
        _log.info("loaded weights from %s: %s", loaded.path, report)
    elif backbone_weights is not None:
        load_backbone(model, backbone_weights)
        _log.info("loaded backbone weights from %s", backbone_weights)
    elif config.network is None and zoo.entry(published.partition(":")[0]).checkpoints:
        _log.info("starting from random weights; use --weights %s to start from the published ones", published)


def names_of_rows(loaded: LoadedWeights, categories: Categories, *, labels_are_ids: bool) -> list[str] | None:
    """Class name of each row of the weights, or None if unknown. Rows that are category ids get names from the data.

    Starting weights may be from other data, so `labels_are_ids` is used only if the numbers of classes agree.
    """
    count = loaded.config.num_classes
    known = loaded.categories or default_categories(count)
    is_unnamed = known == Categories.numbered(count)
    stated = labels_are_ids and count == len(categories)
    if known == Categories.of_ids(count) or (is_unnamed and rows_are_ids(count, categories, stated=stated)):
        _log.info("%s: assuming that its class rows are category ids of the data", loaded.path)
        names = {category.id: category.name for category in categories}
        return [names.get(label, f"id {label}") for label in range(count)]
    if not is_unnamed:
        return known.names
    if count == len(categories):
        _log.warning(
            "%s does not name its %d classes: assuming the classes of the data, in their order",
            *(loaded.path, count),
        )
    return None


def _check_hidden_settings(weights: str, stated: ModelConfig | None, config: ModelConfig) -> None:
    """Reject weights that were trained with other settings, for settings that are not visible in the weights.

    Raises:
        ConfigError: a setting differs; the message says what to set.
    """
    for name in () if stated is None else _HIDDEN_SETTINGS:
        theirs, ours = (attrgetter(name)(one) for one in (stated, config))
        if theirs != ours and not (theirs is None and name.startswith("pixel_")):  # not stated: the run may set it
            value = str(list(theirs) if isinstance(theirs, tuple) else theirs).replace(" ", "")
            raise ConfigError(
                f"{weights} was trained with {name} {value}, but {config.name} has {ours}: add "
                f"--set model.{name}={value}, or omit --model"
            )


def is_fetched(source: str | None) -> bool:
    """Whether weights are downloaded or read from the download cache."""
    if source is None or Path(source).exists():
        return False
    name = source.partition(":")[0]
    return "://" in source or (name in (*zoo.list_models(), *zoo.ALIASES) and bool(zoo.entry(name).checkpoints))
