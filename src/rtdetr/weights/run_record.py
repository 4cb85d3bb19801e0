"""config.json of a training run, and how it differs from the settings in a checkpoint.

A checkpoint contains the settings it was trained with, which take precedence. config.json is a copy for reading; edits
of it do not change the model, so they cause a warning.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rtdetr.errors import WeightsError
from rtdetr.run_files import CONFIG_FILE
from rtdetr.text_files import read_json

_log = logging.getLogger(__name__)
_SECTIONS = {"recipe.": "train.", "network.": "model."}  # section in the file -> prefix for `--set`
_OF_MODEL = ("model", "in_channels", "network", "train.train_size_hw")


def read_run_config(file: Path) -> Mapping[str, Any]:
    """Return the settings in the config.json of a run; empty if there is none or it belongs to something else.

    Raises:
        WeightsError: the file cannot be read.
    """
    if not file.is_file():
        return {}
    stored = read_json(file, what="record", error=WeightsError)
    return stored if isinstance(stored, dict) and {"recipe", "output_dir"} <= stored.keys() else {}


def edits(written: Mapping[str, Any], saved: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the settings that differ: name for `--set`, value in the file, value in the checkpoint."""
    for key in [key for key in written if key in saved]:
        name, value, stored = f"{start}{key}", written[key], saved[key]
        if isinstance(value, Mapping) and isinstance(stored, Mapping):
            yield from edits(value, stored, _SECTIONS.get(f"{name}.", f"{name}."))
        elif value != stored:
            yield name, value, stored


def warn_edited_model(checkpoint: Path, saved: Mapping[str, Any]) -> None:
    """Warn if the config.json next to a checkpoint describes another model than the checkpoint.

    Args:
        checkpoint: the file that was read.
        saved: the settings of the run in the checkpoint.
    """
    file = checkpoint.with_name(CONFIG_FILE)
    try:
        written = read_run_config(file)
    except WeightsError as error:
        _log.warning("%s. It is not compared with %s, which takes precedence", error, checkpoint.name)
        return
    for name, value, stored in edits(written, saved):
        if name in _OF_MODEL or name.startswith("model."):
            _log.warning(
                "%s has %s %s, but %s was trained with %s, which is used. Restore that value, or train another model",
                *(file, name, shown(value), checkpoint.name, shown(stored)),
            )


def shown(value: Any) -> str:
    """Return a value as JSON, shortened if it is long."""
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
