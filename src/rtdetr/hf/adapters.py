"""Adapters of PEFT, such as LoRA: where one is, which model it is for, and whether all of it was loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import is_peft_available
from transformers.utils.hub import cached_file

from rtdetr.errors import MissingDependencyError, WeightsError
from rtdetr.text_files import read_text
from rtdetr.weights.huggingface import ADAPTER
from rtdetr.weights.huggingface_fields import CONFIG
from rtdetr.wording import counted


class Adapter(NamedTuple):
    """A folder or repository of an adapter, the name it gets in the model, and how to reach it on the hub."""

    source: Any
    name: str
    hub: dict[str, Any]


def find_adapter(source: Any, hub: Mapping[str, Any], options: dict[str, Any]) -> tuple[Any, Adapter | None]:
    """Tell the model from the adapter that `source` may be.

    Args:
        source: what `from_pretrained` is given.
        hub: how to reach it on the hub.
        options: further arguments, of which `adapter_name` and `adapter_kwargs` are taken out. Auto classes have
            replaced an adapter by its model already, and give it in `adapter_kwargs`.

    Returns:
        The folder or repository of the model, and the adapter if there is one.

    Raises:
        MissingDependencyError: there is one, and PEFT is not installed.
        WeightsError: an adapter that does not say which model it is for.
    """
    name = options.pop("adapter_name", None) or "default"
    given = dict(options.pop("adapter_kwargs", None) or {})
    path = given.pop("_adapter_model_path", None)
    if path is not None:
        return source, Adapter(path, name, {**_without_revision(hub), **given})
    if Path(source).is_file() or not (Path(source).is_dir() or is_peft_available()):
        return source, None
    reached = {**hub, **given}
    file = cached_file(source, ADAPTER, _raise_exceptions_for_missing_entries=False, **reached)
    if file is None:
        return source, None
    if not is_peft_available():
        raise MissingDependencyError(
            f"{source} holds a PEFT adapter ({ADAPTER}), which needs the package peft: pip install peft"
        )
    adapter = Adapter(source, name, reached)
    return (source if (Path(source) / CONFIG).is_file() else _model_of(Path(file))), adapter


def check_adapter(info: Any, source: Any) -> None:
    """Check that every entry of an adapter has found its place, and every place its entry.

    Raises:
        WeightsError: one has not, as where the adapter was trained on transformers' own class.
    """
    missing, unexpected = sorted(info.missing_keys), sorted(info.unexpected_keys)
    if not missing and not unexpected:
        return
    wrong = [
        f"{counted(len(keys), 'entry')} {what}, such as {keys[0]}"
        for what, keys in (("missing", missing), ("without a place", unexpected))
        if keys
    ]
    raise WeightsError(
        f"{source or 'the adapter'}: does not fit this model: {'; '.join(wrong)}. Modules have other names here than "
        "in transformers' own class (docs/huggingface.md), and an adapter fits the class that it was trained with: "
        "merge it there (peft's merge_and_unload), save that model, and open it here."
    )


def _model_of(file: Path) -> str:
    """Folder or repository of the model that an adapter is for."""
    try:
        found = json.loads(read_text(file, what="description of an adapter", error=WeightsError))
        name = found["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, RecursionError):
        name = None
    if not name or not isinstance(name, str):
        raise WeightsError(
            f"{file}: expected the model that the adapter is for as base_model_name_or_path; open that model and call "
            f"load_adapter({str(file.parent)!r})"
        )
    return name


def _without_revision(hub: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in hub.items() if key not in ("revision", "subfolder")}
