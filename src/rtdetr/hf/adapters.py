"""PEFT adapters such as LoRA: find them and their base model, and check that every entry was loaded."""

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
    """Folder or repository of an adapter, its name in the model, and the hub arguments to download it."""

    source: Any
    name: str
    hub: dict[str, Any]


def find_adapter(source: Any, hub: Mapping[str, Any], options: dict[str, Any]) -> tuple[Any, Adapter | None]:
    """Separate the base model from the adapter if `source` is an adapter.

    Args:
        source: first argument of `from_pretrained`.
        hub: hub arguments, such as revision and token.
        options: other arguments; `adapter_name` and `adapter_kwargs` are removed from them. Auto classes pass the base
            model as `source` and the adapter in `adapter_kwargs`.

    Returns:
        Folder or repository of the base model, and the adapter if there is one.

    Raises:
        MissingDependencyError: there is an adapter but PEFT is not installed.
        WeightsError: the adapter does not name its base model.
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
            f"{source} contains a PEFT adapter ({ADAPTER}), which needs the package peft: pip install peft"
        )
    adapter = Adapter(source, name, reached)
    return (source if (Path(source) / CONFIG).is_file() else _model_of(Path(file))), adapter


def check_adapter(info: Any, source: Any) -> None:
    """Check that the entries of an adapter match those of the model exactly.

    Raises:
        WeightsError: entries are missing or unexpected, for example because the adapter was trained with the class of
            transformers.
    """
    missing, unexpected = sorted(info.missing_keys), sorted(info.unexpected_keys)
    if not missing and not unexpected:
        return
    wrong = [
        f"{counted(len(keys), 'entry')} {what}, such as {keys[0]}"
        for what, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    raise WeightsError(
        f"{source or 'the adapter'} does not fit this model: {'; '.join(wrong)}. An adapter only fits the class "
        "that it was trained with, and modules in transformers have other names (docs/huggingface.md): merge it "
        "there (merge_and_unload of peft), save that model, and open it here."
    )


def _model_of(file: Path) -> str:
    """Return the folder or repository of the base model of an adapter."""
    try:
        found = json.loads(read_text(file, what="description of an adapter", error=WeightsError))
        name = found["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, RecursionError):
        name = None
    if not name or not isinstance(name, str):
        raise WeightsError(
            f"{file}: expected the name of the base model as base_model_name_or_path; open the base model and call "
            f"load_adapter({str(file.parent)!r})"
        )
    return name


def _without_revision(hub: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in hub.items() if key not in ("revision", "subfolder")}
