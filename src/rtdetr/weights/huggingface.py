"""Model folders of Hugging Face transformers: RTDetrForObjectDetection (v1) and RTDetrV2ForObjectDetection.

Reading: a folder with `config.json` and `model.safetensors` (one file, shards, or an old `pytorch_model.bin`), or a
single .safetensors file; transformers' names (on disk or in memory) or official names; float32, float16 or bfloat16.

Writing: a folder that stock transformers can load if it supports the model. It does not support numbers of points that
differ between levels, other query selection, learned queries, DEIM's activation and query position head, or fusion
blocks without exactly three blocks. Such a model is written under official names with model type "rtdetr", which only
this library reads. Transformers evaluates the last decoder layer: a model with another `eval_idx` is written in full,
and transformers returns the result of the last layer. The header of the safetensors file describes the model exactly
("rtdetr"), so that this library reads back what it wrote; files written by transformers have no such header, and are
read as the model that transformers computes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from rtdetr.categories import COCO80, Categories
from rtdetr.config import ModelConfig
from rtdetr.errors import WeightsError
from rtdetr.expected import shown_value
from rtdetr.files import write_bytes, write_text
from rtdetr.text_files import read_text
from rtdetr.weights.assumptions import NAMES, WEIGHTS
from rtdetr.weights.huggingface_config import OWN_TYPE, unsupported_by_transformers, write_config
from rtdetr.weights.huggingface_fields import CONFIG, check_backbone
from rtdetr.weights.huggingface_preprocessor import (
    PREPROCESSOR,
    read_preprocessor,
    with_preprocessing,
    write_preprocessor,
)
from rtdetr.weights.huggingface_reading import describes_a_model, read_description, stated_version
from rtdetr.weights.names import State, from_huggingface, is_huggingface, to_huggingface, to_version
from rtdetr.weights.official import Metadata, checked_state, load_pickle, metadata, read_metadata, unreadable
from rtdetr.wording import are, counted

INDEX, PICKLED = f"{WEIGHTS}.index.json", "pytorch_model.bin"
ADAPTER = "adapter_config.json"  # adapters by PEFT, such as LoRA
_OWN = "rtdetr"  # key of our description, in config.json and in the header of the weights


def read_huggingface(path: Path) -> tuple[State, Metadata | None]:
    """Read a folder, a .safetensors file, a .bin file or an index of shards.

    Returns:
        The entries under official names, and the description of the model, if a header or config.json has one.

    Raises:
        WeightsError: the file does not exist, is damaged, or is not an RT-DETR model.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (folder / ADAPTER).is_file():
        raise WeightsError(
            f"{path} contains a PEFT adapter ({ADAPTER}), which only from_pretrained of rtdetr.hf supports. Merge it "
            "into its model (peft's merge_and_unload), save the model, and use the saved folder."
        )
    state, described = read_entries(path)
    # a renamed file may be next to the config.json of another model
    in_folder = path.is_dir() or path.name in (WEIGHTS, INDEX, PICKLED)
    stored = _read_json(folder / CONFIG) if in_folder else {}
    preprocessor = _read_json(folder / PREPROCESSOR) if in_folder else {}
    return interpret(state, described, stored=stored, preprocessor=preprocessor, hint=path.name)


def interpret(
    state: State, described: Metadata | None, *, stored: dict[str, Any], preprocessor: dict[str, Any], hint: str
) -> tuple[State, Metadata | None]:
    """Interpret entries with the files next to them.

    Args:
        state: the entries under any of their names.
        described: description in the header of their file, if any.
        stored: content of config.json; empty if there is none.
        preprocessor: content of preprocessor_config.json; empty if there is none.
        hint: name of the folder, as for `identify`.

    Returns:
        As for `read_huggingface`.

    Raises:
        WeightsError: as for `read_huggingface`; the message names the file and the field.
    """
    stored = stored if describes_a_model(stored) else {}
    version = stated_version(stored)
    check_backbone(stored)
    if is_huggingface(state):
        state = from_huggingface(state)
        # if config.json does not say it, the constant that only v2 stores does
        v1 = version == "v1" or (version is None and not any(key.endswith(".num_points_scale") for key in state))
        state = to_version(state, "v1" if v1 else "v2")
    is_complete = described is not None or _OWN in stored
    if stored or (preprocessor and described is None):
        described = read_description(stored, state, described=described, hint=hint)
    if described is not None:
        config = described.config
        asked = read_preprocessor(preprocessor, in_channels=config.in_channels, size_hw=config.eval_size_hw)
        found = {
            CONFIG: stored,
            NAMES: described.categories or not stored or config.num_classes != len(COCO80),
            PREPROCESSOR: preprocessor,
        }
        described = described._replace(
            config=with_preprocessing(config, asked),
            preparation=asked.preparation,
            missing=() if is_complete else tuple(name for name, content in found.items() if not content),
        )
    return state, described


def write_huggingface(
    path: Path,
    state: State,
    *,
    config: ModelConfig,
    categories: Categories | None,
    thresholds: Sequence[float] | None = None,
) -> list[str]:
    """Write a folder, or only the weights if `path` ends in .safetensors.

    Args:
        path: the folder or file to create; files of the same name are replaced.
        state: all entries of the model, under the names of `config.version`.
        config: the model.
        categories: its classes, if known.
        thresholds: score thresholds per class, if measured; stored in the header of the weights.

    Returns:
        Limitations of the result in stock transformers; empty if it computes exactly this model.

    Raises:
        WeightsError: the files cannot be written.
    """
    foreign = unsupported_by_transformers(config)
    entries = state if foreign else to_huggingface(state)
    # the format supports neither strides nor shared memory
    entries = {key: value.clone(memory_format=torch.contiguous_format) for key, value in entries.items()}
    about = metadata(config, categories, thresholds=thresholds)
    header = {"format": "pt", "rtdetr": json.dumps(about)}
    lone = path.suffix.lower() == ".safetensors"
    file = path if lone else path / WEIGHTS
    # save_file creates files that only their owner can read
    write_bytes(file, save(entries, metadata=header), error=WeightsError)
    if not lone:
        dtype = str(state["decoder.dec_score_head.0.weight"].dtype).removeprefix("torch.")
        if foreign:
            stored = {"model_type": OWN_TYPE, "rtdetr": about}
        else:
            stored = write_config(config, categories=categories, dtype=dtype)
        write_json(path / PREPROCESSOR, write_preprocessor(config))
        write_json(path / CONFIG, stored)
    if foreign:
        return [f"only rtdetr can read the result: transformers does not support {what}" for what in foreign]
    last, evaluated = config.decoder.num_layers, config.decoder.eval_idx % config.decoder.num_layers + 1
    if evaluated != last:
        return [
            f"transformers returns the result of decoder layer {last}, but this model is evaluated at layer {evaluated}"
        ]
    return []


def read_entries(path: Path) -> tuple[State, Metadata | None]:
    """Read entries, under their stored names, and our description from a file or an index of shards.

    Args:
        path: a .safetensors file, a .bin file, the .json index of shards, or a folder with one of these.

    Raises:
        WeightsError: the file does not exist or is damaged.
    """
    if path.is_dir():
        found = next((path / name for name in (WEIGHTS, INDEX, PICKLED) if (path / name).is_file()), None)
        if found is None:
            raise WeightsError(f"{path} contains no weights: expected {WEIGHTS}, {INDEX} or {PICKLED}")
        return read_entries(found)
    if path.suffix.lower() == ".bin":
        return checked_state(load_pickle(path), path), None
    if path.suffix.lower() == ".json":
        return _read_shards(path)
    if not path.is_file():
        raise WeightsError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise WeightsError(unreadable(path, kind="a safetensors file", reason=str(error))) from None
    described = _parse(header["rtdetr"], path) if "rtdetr" in header else None
    return checked_state(state, path), None if described is None else read_metadata(described)


def _read_shards(index: Path) -> tuple[State, Metadata | None]:
    """Read all files that an index names, which must be next to it, and our description, the same in each."""
    files = _read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise WeightsError(f"{index}: expected an object 'weight_map' of entry names and files")
    state: State = {}
    described = None
    for name in sorted({str(name) for name in files.values()}):
        if Path(name).name != name or not name.endswith((".safetensors", ".bin")):
            raise WeightsError(f"{index}: expected names of files next to it, got {name!r}")
        part, described = read_entries(index.with_name(name))
        state |= part
    if missing := set(files) - set(state):
        raise WeightsError(
            f"{index}: {counted(len(missing), 'entry')} {are(missing)} in none of its files, such as {min(missing)}"
        )
    return state, described


def _read_json(path: Path) -> dict[str, Any]:
    return _parse(read_text(path, what="description", error=WeightsError), path) if path.is_file() else {}


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, path))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} contains invalid JSON: {error}") from None
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: expected a JSON object, got {shown_value(data)}")
    return data


def _object(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """Build a JSON object and reject duplicate keys, as readers disagree on which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise WeightsError(f"{path}: the key {twice!r} appears twice in one object; remove one of them")
    return found


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON file in the form of transformers' files."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True) + "\n", error=WeightsError)
