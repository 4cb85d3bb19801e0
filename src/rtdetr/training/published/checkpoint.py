"""The network of a published file with the weights of a checkpoint, for the tools that evaluate, export and detect."""

from pathlib import Path
from typing import NamedTuple

from rtdetr.categories import Categories
from rtdetr.models import RTDETR, build_model
from rtdetr.training.published.read import Published
from rtdetr.weights import default_categories, download, load_state, read_checkpoint


class PublishedModel(NamedTuple):
    """A model in eval mode and what its checkpoint says about it."""

    model: RTDETR
    categories: Categories
    thresholds: tuple[float, ...] | None
    path: Path


def load_published(published: Published, source: str) -> PublishedModel:
    """Build the network of a file, with the number of classes of the checkpoint.

    Args:
        published: what the file says.
        source: file or address of the checkpoint, or the zoo's name of one.

    Raises:
        WeightsError: the checkpoint is missing, damaged or of another network.
    """
    weights = read_checkpoint(download(source) if "://" in source else source)
    model = build_model(published.network, num_classes=weights.config.num_classes)
    load_state(model, weights.state)
    categories = weights.categories or default_categories(weights.config.num_classes)
    return PublishedModel(model.eval(), categories, weights.thresholds, weights.path)
