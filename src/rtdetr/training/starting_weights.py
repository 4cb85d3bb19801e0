"""What a new run starts from: weights of a whole model, of a backbone, or none."""

import logging
from operator import attrgetter
from pathlib import Path

from rtdetr import zoo
from rtdetr.categories import Categories
from rtdetr.config import ModelConfig, TrainConfig
from rtdetr.errors import ConfigError
from rtdetr.models import RTDETR
from rtdetr.training.former_rows import rows_are_ids
from rtdetr.weights import LoadedWeights, default_categories, load_backbone, read_checkpoint, transfer

_log = logging.getLogger(__name__)
# settings of a network that learned weights depend on and do not show
_UNSEEN = ("encoder.num_heads", "encoder.temperature", "decoder.num_heads", "pixel_mean", "pixel_std")


def load_starting_weights(config: TrainConfig, model: RTDETR, categories: Categories, *, dry_run: bool) -> None:
    """Load the weights that a new run starts from into its network.

    Args:
        config: says which; none at all leaves the network as it was built.
        model: the network, with the classes of the data.
        categories: the classes of the data; the rows of the weights go by their names.
        dry_run: fetch nothing: weights that come over the network are left out.

    Raises:
        ConfigError, WeightsError: they do not fit, or there are none of that name.
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
            raise ConfigError(f"{config.model} has no published backbone weights; give a file or leave them out")
    if dry_run and _is_fetched(config.weights or backbone_weights):
        return
    if config.weights is not None:
        loaded = read_checkpoint(config.weights, model=config.network or config.model)
        _check_unseen(config.weights, loaded.stated, model.config)
        names = _names_of_rows(loaded, categories, labels_are_ids=config.labels_are_ids)
        report = transfer(model, loaded.state, source_names=names, target_names=categories.names)
        _log.info("weights of %s: %s", loaded.path, report)
    elif backbone_weights is not None:
        load_backbone(model, backbone_weights)
        _log.info("backbone weights of %s", backbone_weights)
    elif config.network is None and zoo.entry(published.partition(":")[0]).checkpoints:
        _log.info("starting from random weights; --weights %s starts from the published ones", published)


def _names_of_rows(loaded: LoadedWeights, categories: Categories, *, labels_are_ids: bool) -> list[str] | None:
    """Class names by row of weights; None where nothing names them. Rows that are category ids have names of the data.

    Weights that a run starts from may be of other data, so `labels_are_ids` counts only where the numbers agree.
    """
    count = loaded.config.num_classes
    known = loaded.categories or default_categories(count)
    is_unnamed = known == Categories.numbered(count)
    stated = labels_are_ids and count == len(categories)
    if known == Categories.of_ids(count) or (is_unnamed and rows_are_ids(count, categories, stated=stated)):
        _log.info("%s: its rows are taken for category ids of the data", loaded.path)
        names = {category.id: category.name for category in categories}
        return [names.get(label, f"id {label}") for label in range(count)]
    if not is_unnamed:
        return known.names
    if count == len(categories):
        _log.warning(
            "%s does not name its %d classes: its rows are taken for the classes of the data in their order",
            *(loaded.path, count),
        )
    return None


def _check_unseen(weights: str, said: ModelConfig | None, config: ModelConfig) -> None:
    """Refuse to start a network from weights that were trained with other settings which no entry of them shows.

    Raises:
        ConfigError: as said, with what to set.
    """
    for name in () if said is None else _UNSEEN:
        theirs, ours = (attrgetter(name)(one) for one in (said, config))
        if theirs != ours and not (theirs is None and name.startswith("pixel_")):  # unsaid: the run may set it
            value = str(list(theirs) if isinstance(theirs, tuple) else theirs).replace(" ", "")
            raise ConfigError(
                f"{weights} was trained with {name} {value}, and {config.name} has {ours}. Take it over: "
                f"--set model.{name}={value}, or leave the model's name out"
            )


def _is_fetched(source: str | None) -> bool:
    """Whether weights come over the network, or from the cache of what did."""
    if source is None or Path(source).exists():
        return False
    name = source.partition(":")[0]
    return "://" in source or (name in (*zoo.list_models(), *zoo.ALIASES) and bool(zoo.entry(name).checkpoints))
