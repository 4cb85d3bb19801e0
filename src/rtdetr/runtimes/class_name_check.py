"""Class names in the config.json next to an exported file, if it was exported into the folder of its model."""

import logging
from collections.abc import Sequence
from pathlib import Path

from rtdetr.categories import COCO_SYNONYMS
from rtdetr.errors import WeightsError
from rtdetr.text_files import read_json

_log = logging.getLogger(__name__)
CONFIG = "config.json"


def warn_other_names(path: Path, names: Sequence[str]) -> None:
    """Warn if config.json in the folder of an exported file has other class names; those of the file are used.

    Other settings may differ on purpose: `rtdetr export` can change sizes, queries, layers and sampling, but not names.

    Args:
        path: the exported file.
        names: its class names by label.
    """
    here, there = dict(enumerate(names)), _names_in(path.with_name(CONFIG))
    if there is None:
        return
    different = (label for label in here | there if here.get(label) not in _synonyms(there.get(label)))
    label = next(different, None)
    if label is not None:
        _log.warning(
            "%s has %s for class %d, but %s in the same folder has %s. The names of the exported file are used; to "
            "rename classes, export the model again",
            *(path, _shown(here.get(label)), label, CONFIG, _shown(there.get(label))),
        )


def _names_in(file: Path) -> dict[int, str] | None:
    """Return class names by label from a Hugging Face config; None if it has none."""
    if not file.is_file():
        return None
    try:
        stored = read_json(file, what="description", error=WeightsError)
        if isinstance(stored.get("id2label"), dict):
            names = {int(label): str(name) for label, name in stored["id2label"].items()}
        else:
            names = {label: str(row["name"]) for label, row in enumerate(stored["rtdetr"]["categories"])}
    except (WeightsError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # not a model's config.json; if it should be one, `rtdetr.load` of the folder reports the error
    if not names or all(name == f"LABEL_{label}" for label, name in names.items()):
        return None
    return names


def _synonyms(name: str | None) -> tuple[str | None, ...]:
    """Return a name and, if it is one of transformers' COCO names, also COCO's own name."""
    return (name,) if name not in COCO_SYNONYMS else (name, COCO_SYNONYMS[name])


def _shown(name: str | None) -> str:
    return "no name" if name is None else repr(name)
