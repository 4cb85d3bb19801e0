"""The network of a published file with the weights of a checkpoint, for the evaluation, export and detection tools."""

from pathlib import Path
from typing import NamedTuple

from rtdetr.categories import Categories
from rtdetr.models import RTDETR
from rtdetr.published import Published
from rtdetr.weights.download import download
from rtdetr.weights.load import build_from, read_checkpoint
from rtdetr.weights.rows import name_rows


class PublishedModel(NamedTuple):
    """A model in eval mode, with information from its checkpoint.

    is_named: whether the classes are known; otherwise, `categories` are those that such files usually have.
    averaged: whether the weights are a moving average (EMA); None: unknown.
    """

    model: RTDETR
    categories: Categories
    thresholds: tuple[float, ...] | None
    path: Path
    is_named: bool
    averaged: bool | None


def load_published(published: Published, source: str, *, average: bool = True) -> PublishedModel:
    """Build the network of a published file with the number of classes of the checkpoint.

    Args:
        published: content of the published file.
        source: file, URL or zoo name of the checkpoint.
        average: as for `read_checkpoint`.

    Raises:
        WeightsError: the checkpoint is missing, damaged or belongs to another network.
    """
    path = download(source) if "://" in source else source
    weights = read_checkpoint(path, model=published.network, average=average)
    if weights.categories is None and published.settings.get("labels_are_ids"):
        weights = name_rows(weights, "ids")
    model, categories = build_from(weights)
    is_named = weights.categories is not None
    return PublishedModel(model, categories, weights.thresholds, weights.path, is_named, weights.averaged)
