"""config.json of a training run: what it says about the model, beside checkpoints that say it too.

A checkpoint holds the settings it was trained with, and is what counts. config.json is a copy for people; who edits it
should not believe that the model has changed.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rtdetr.errors import WeightsError
from rtdetr.run_files import CONFIG_FILE
from rtdetr.text_files import read_text

_log = logging.getLogger(__name__)
_SECTIONS = {"recipe.": "train.", "network.": "model."}  # of the file, and what `--set` calls them
_OF_MODEL = ("model", "in_channels", "network", "train.train_size_hw")


def read_run_config(file: Path) -> Mapping[str, Any]:
    """Settings of a run's config.json; empty where there is none, or where it is of something else.

    Raises:
        WeightsError: the file cannot be read.
    """
    if not file.is_file():
        return {}
    try:
        stored = json.loads(read_text(file, what="record", error=WeightsError))
    except (json.JSONDecodeError, RecursionError) as error:
        raise WeightsError(f"{file} holds damaged JSON: {error}") from None
    return stored if isinstance(stored, dict) and {"recipe", "output_dir"} <= stored.keys() else {}


def edits(written: Mapping[str, Any], saved: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Settings that differ: the name that `--set` has for each, what a file says, and what a checkpoint says."""
    for key in [key for key in written if key in saved]:
        name, value, stored = f"{start}{key}", written[key], saved[key]
        if isinstance(value, Mapping) and isinstance(stored, Mapping):
            yield from edits(value, stored, _SECTIONS.get(f"{name}.", f"{name}."))
        elif value != stored:
            yield name, value, stored


def tell_edited_model(checkpoint: Path, saved: Mapping[str, Any]) -> None:
    """Say where the config.json beside a checkpoint describes another model than the checkpoint does.

    Args:
        checkpoint: the file that was read.
        saved: the settings of the run that are in it.
    """
    file = checkpoint.with_name(CONFIG_FILE)
    try:
        written = read_run_config(file)
    except WeightsError as error:
        _log.warning("%s. It is not compared with %s, which decides", error, checkpoint.name)
        return
    for name, value, stored in edits(written, saved):
        if name in _OF_MODEL or name.startswith("model."):
            _log.warning(
                "%s has %s %s, but %s was trained with %s, which decides. Put that back, or train another model",
                *(file, name, shown(value), checkpoint.name, shown(stored)),
            )


def shown(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
