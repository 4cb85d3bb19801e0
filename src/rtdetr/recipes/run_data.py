"""Open the datasets of a run, from the paths in its settings or from Python objects."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr.config import TrainConfig
from rtdetr.data import DetectionDataset, open_dataset
from rtdetr.data.unlabelled import open_unlabelled
from rtdetr.errors import ConfigError, DatasetError, MissingSplitError
from rtdetr.yaml_files import YAML_SUFFIXES

UNLABELLED = "unlabelled"  # name of the images without annotations among the datasets
OPENED = "(opened in Python)"  # stored instead of a path
OPTIONS = {"data": "DATA", "images": "--images", "val_data": "--val-data", "val_images": "--val-images"}
"""Data settings and their command-line options."""


class GivenData(NamedTuple):
    """Datasets given as Python objects; None: use the path in the settings."""

    train: Any
    val: Any

    @classmethod
    def among(cls, data: Any, val_data: Any) -> "GivenData":
        """Keep the arguments that are Python objects."""
        return cls(*(None if is_path(one) else one for one in (data, val_data)))


_NO_VAL = (
    "give validation data with --val-data (Python: val_data), or disable evaluation with --evaluate-every 0 (Python: "
    "evaluate_every=0)"
)


def open_run_data(config: TrainConfig, given: GivenData | None) -> dict[str, DetectionDataset]:
    """Open the dataset "train", "val" if the run evaluates, and "unlabelled" if given, with the same labels.

    Raises:
        ConfigError: the run evaluates, but there is no validation data.
        DatasetError: a dataset is missing, malformed, or has images that are too large.
    """
    train, val = _open_parts(config, given)
    datasets = {"train": train} if val is None else {"train": train, "val": val}
    if config.unlabelled is not None:
        options = {"train": train, "val": val, "on_bad_image": config.bad_images}
        datasets[UNLABELLED] = open_unlabelled(config.unlabelled, train.categories, **options)
    for dataset in datasets.values():
        dataset.check_pixels()
    return datasets


def _open_parts(config: TrainConfig, given: GivenData | None) -> tuple[DetectionDataset, DetectionDataset | None]:
    given = given or GivenData(None, None)
    options: dict[str, Any] = {"on_bad_box": config.bad_boxes, "on_bad_image": config.bad_images}
    data = config.data if given.train is None else given.train
    with _explain_origin(config, "data", "images"):
        train = open_dataset(data, split="train", images=config.images, **options)
    if config.evaluate_every == 0:
        return train, None
    val_data = config.val_data if given.val is None else given.val
    if val_data is None and not _has_parts(data):
        raise ConfigError(f"{train.annotations_file} has no validation split; {_NO_VAL}")
    try:
        of_val = data if val_data is None else val_data
        with _explain_origin(config, "val_data", "val_images"):
            val = open_dataset(of_val, split="val", images=config.val_images, categories=train.categories, **options)
    except MissingSplitError as error:
        raise MissingSplitError(f"{_NO_VAL[0].upper()}{_NO_VAL[1:]}. {error}") from None
    return train, val


def _has_parts(data: Any) -> bool:
    """Whether a dataset may have a validation split as well as a training split."""
    if isinstance(data, str):
        return Path(data).is_dir() or data.lower().endswith(YAML_SUFFIXES)
    if isinstance(data, Sequence):
        return all(map(_has_parts, data))
    return isinstance(data, Mapping)  # splits by name, such as a DatasetDict


def is_path(data: Any) -> bool:
    """Whether a dataset is a path, several paths, or None."""
    if isinstance(data, Sequence) and not isinstance(data, str):
        return all(map(is_path, data))
    return data is None or isinstance(data, str | os.PathLike)


@contextlib.contextmanager
def _explain_origin(config: TrainConfig, *names: str) -> Iterator[None]:
    """Extend an error about a missing path by the file that names the path and the option that overrides it."""
    try:
        yield
    except DatasetError as error:
        for name in names:
            path, option = getattr(config, name), OPTIONS[name]
            origin = config.data_origins.get(name, option)
            is_meant = isinstance(path, str) and str(Path(path)) in str(error) and not Path(path).exists()
            if is_meant and origin != option:
                raise type(error)(f"{error}. Correct the path in {origin}, or override it with {option}") from None
        raise
