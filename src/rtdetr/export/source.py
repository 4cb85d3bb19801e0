"""The model to export, and what is known about it."""

import hashlib
import logging
import os
from pathlib import Path
from typing import NamedTuple

from rtdetr import zoo
from rtdetr.categories import Categories
from rtdetr.class_lists import GivenClasses
from rtdetr.models import RTDETR
from rtdetr.weights import build_from, default_categories, drop_unused_rows, name_rows, read_checkpoint

_log = logging.getLogger(__name__)


class Source(NamedTuple):
    """A model to export and what is known about it; `sha256` is that of its checkpoint."""

    model: RTDETR
    categories: Categories
    thresholds: tuple[float, ...] | None = None
    license: str | None = None
    sha256: str | None = None


def open_source(
    source: str | os.PathLike[str] | RTDETR | Source,
    *,
    model: str | os.PathLike[str] | None = None,
    categories: GivenClasses | None = None,
    drop_unused: bool = False,
) -> Source:
    """Read a model with all that is known about it.

    Args:
        source: a name, checkpoint or folder as `rtdetr.load` takes them; a network; or what this function returned.
        model: as for `rtdetr.load`, for a name, checkpoint or folder.
        categories: as for `rtdetr.load`, for the same.
        drop_unused: leave out rows of the class heads that are of no class, as published models have them that were
            trained on category ids; see `rtdetr.weights.drop_unused_rows`.

    Raises:
        WeightsError: the checkpoint is missing, damaged or of another model.
        ConfigError: no such model or classes, or classes that are not those of the checkpoint.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, RTDETR):
        return Source(source, default_categories(source.config.num_classes))
    weights = read_checkpoint(source if isinstance(source, str) else Path(source), model=model)
    if categories is not None:
        weights = name_rows(weights, categories)
    if drop_unused:
        weights = drop_unused_rows(weights)
    network, classes = build_from(weights)
    if classes == Categories.numbered(len(classes)):
        _log.warning(
            "%s does not name its classes, so the exported file calls them 'class 0' and so on. Give them with "
            "--classes FILE (Python: open_source(model, categories=...))",
            source,
        )
    return Source(network, classes, weights.thresholds, _license(str(source)), checkpoint_sha256(weights.path))


def _license(name: str) -> str | None:
    """The license of a published checkpoint."""
    name, _, tag = name.partition(":")
    if name not in (*zoo.list_models(), *zoo.ALIASES):
        return None
    found = zoo.entry(name).checkpoints.get(tag or str(zoo.tag(name)))
    return found.license if found else None


def checkpoint_sha256(path: Path) -> str | None:
    """Hash of a checkpoint's file; of the weights of a folder in Hugging Face's layout."""
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
