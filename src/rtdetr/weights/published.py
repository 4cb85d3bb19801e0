"""The network of a published file with the weights of a checkpoint, for the tools that evaluate, export and detect."""

from pathlib import Path
from typing import NamedTuple

from rtdetr.categories import Categories
from rtdetr.models import RTDETR
from rtdetr.published import Published
from rtdetr.weights.download import download
from rtdetr.weights.load import build_from, read_checkpoint
from rtdetr.weights.rows import name_rows


class PublishedModel(NamedTuple):
    """A model in eval mode and what its checkpoint says about it.

    `is_named`: something says which classes the rows are of; otherwise `categories` is what such files usually have.
    `averaged`: whether the weights are a moving average; None: unknown.
    """

    model: RTDETR
    categories: Categories
    thresholds: tuple[float, ...] | None
    path: Path
    is_named: bool
    averaged: bool | None


def load_published(published: Published, source: str, *, average: bool = True) -> PublishedModel:
    """Build the network of a file, with the number of classes of the checkpoint.

    Args:
        published: what the file says.
        source: file or address of the checkpoint, or the zoo's name of one.
        average: as for `read_checkpoint`.

    Raises:
        WeightsError: the checkpoint is missing, damaged or of another network.
    """
    path = download(source) if "://" in source else source
    weights = read_checkpoint(path, model=published.network, average=average)
    if weights.categories is None and published.settings.get("labels_are_ids"):
        weights = name_rows(weights, "ids")
    model, categories = build_from(weights)
    is_named = weights.categories is not None
    return PublishedModel(model, categories, weights.thresholds, weights.path, is_named, weights.averaged)
