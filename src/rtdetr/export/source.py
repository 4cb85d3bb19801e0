"""The model to export, with its classes, thresholds, license and hash."""

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
    """A model to export, with its metadata; `sha256` is the hash of its checkpoint."""

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
    """Read a model and its metadata.

    Args:
        source: a name, checkpoint or folder as for `rtdetr.load`; a network; or a result of this function.
        model: as for `rtdetr.load`, if `source` is a name, checkpoint or folder.
        categories: as for `rtdetr.load`, if `source` is a name, checkpoint or folder.
        drop_unused: remove rows of the class heads that belong to no class, which published models trained on category
            ids have; see `rtdetr.weights.drop_unused_rows`.

    Raises:
        WeightsError: the checkpoint is missing, damaged or of another model.
        ConfigError: the model or classes do not exist, or the classes do not fit the checkpoint.
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
            "%s does not name its classes, so they are called 'class 0' and so on in the exported file. Pass their "
            "names with --classes FILE (Python: open_source(model, categories=...))",
            source,
        )
    return Source(network, classes, weights.thresholds, _license(str(source)), checkpoint_sha256(weights.path))


def _license(name: str) -> str | None:
    """Return the license of a published checkpoint; None for other models."""
    name, _, tag = name.partition(":")
    if name not in (*zoo.list_models(), *zoo.ALIASES):
        return None
    found = zoo.entry(name).checkpoints.get(tag or str(zoo.tag(name)))
    return found.license if found else None


def checkpoint_sha256(path: Path) -> str | None:
    """Return the hash of a checkpoint file, or of the weights in a Hugging Face folder; None if there is no file."""
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
