"""config.json beside an exported file: the folder that the file was exported from may name its classes as well."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from rtdetr.categories import COCO_SYNONYMS
from rtdetr.errors import WeightsError
from rtdetr.text_files import read_text

_log = logging.getLogger(__name__)
CONFIG = "config.json"


def tell_other_names(path: Path, names: Sequence[str]) -> None:
    """Say that config.json in the folder of an exported file has other class names than the file, which decides.

    All else may differ on purpose: `rtdetr export` has options for sizes, queries, layers and sampling, none for names.

    Args:
        path: the exported file.
        names: its classes by label.
    """
    here, there = dict(enumerate(names)), _names_in(path.with_name(CONFIG))
    if there is None:
        return
    different = (label for label in here | there if here.get(label) not in _words(there.get(label)))
    label = next(different, None)
    if label is not None:
        _log.warning(
            "%s has %s for class %d, %s beside it has %s. The exported file decides; to rename classes, export the "
            "model again",
            *(path, _shown(here.get(label)), label, CONFIG, _shown(there.get(label))),
        )


def _names_in(file: Path) -> dict[int, str] | None:
    """Class names by label of a Hugging Face folder; None where there are none."""
    if not file.is_file():
        return None
    try:
        stored = json.loads(read_text(file, what="description", error=WeightsError))
        if isinstance(stored.get("id2label"), dict):
            told = {int(label): str(name) for label, name in stored["id2label"].items()}
        else:
            told = {label: str(row["name"]) for label, row in enumerate(stored["rtdetr"]["categories"])}
    except (WeightsError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # it is of something else; for the model of this folder, `rtdetr.load` of the folder says so
    if not told or all(name == f"LABEL_{label}" for label, name in told.items()):
        return None
    return told


def _words(name: str | None) -> tuple[str | None, ...]:
    """A name, and what COCO calls it where it is one of transformers' own."""
    return (name,) if name not in COCO_SYNONYMS else (name, COCO_SYNONYMS[name])


def _shown(name: str | None) -> str:
    return "no name" if name is None else repr(name)
