"""Checkpoint files of PyTorch (.pth): reading the official ones and ours, writing ours.

Official files hold {"ema": {"module": entries}} or {"model": entries} or both beside training state. Ours are the same
plus "rtdetr", plain data that says which model and classes the entries are for, so official tools read them as well.
Reading never runs code from the file (`weights_only=True`).
"""

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rtdetr import __version__
from rtdetr.categories import Categories
from rtdetr.config import ModelConfig
from rtdetr.errors import RTDETRError, WeightsError
from rtdetr.files import write_atomically
from rtdetr.weights.names import State

FORMAT = 1
_PREFIXES = ("module.", "_orig_mod.")  # left in names by DistributedDataParallel and torch.compile
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool)


class Metadata(NamedTuple):
    """What our files know beyond the entries."""

    config: ModelConfig
    categories: Categories | None


def metadata(config: ModelConfig, categories: Categories | None) -> dict[str, Any]:
    """The plain data of the key "rtdetr" in a checkpoint; every writer of checkpoints stores it."""
    return {
        "format": FORMAT,
        "version": __version__,
        "model": config.model_dump(mode="json"),
        "categories": None if categories is None else categories.to_json(),
        "image_size_hw": None if config.eval_size_hw is None else list(config.eval_size_hw),
    }


def read_metadata(data: object) -> Metadata:
    """Check and build what `metadata` wrote.

    Raises:
        WeightsError: written by a newer version of this library, or damaged.
    """
    match data:
        case {"format": int(number)} if number > FORMAT:
            raise WeightsError(f"its format {number} is newer than {FORMAT}, the last one known here; upgrade rtdetr")
        case {"format": int(), "model": dict(model), "categories": None | list() as rows}:
            try:
                categories = None if rows is None else Categories.from_json(rows)
                config = ModelConfig(**{str(key): value for key, value in model.items()})
            except (RTDETRError, TypeError, AttributeError) as error:
                raise WeightsError(f"its description of the model is damaged: {error}") from None
            if categories is not None and len(categories) != config.num_classes:
                raise WeightsError(f"it names {len(categories)} classes for a model of {config.num_classes}")
            return Metadata(config, categories)
    raise WeightsError("its description of the model (key 'rtdetr') is damaged")


def read_pth(path: Path) -> tuple[State, Metadata | None]:
    """Read the entries of a PyTorch file, those of the moving average where it has them, and our description.

    Raises:
        WeightsError: no such file, damaged, not a checkpoint, or it wants to run code.
    """
    content = load_pickle(path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: expected a dictionary of weights, got {type(content).__name__}")
    described = content.get("rtdetr")
    average = content.get("ema")
    entries = average.get("module") if isinstance(average, Mapping) else None
    state = checked_state(entries or content.get("model") or content, path)
    return state, None if described is None else read_metadata(described)


def load_pickle(path: Path) -> Any:
    """`torch.load` that never runs code from the file and whose only error is WeightsError."""
    if not path.is_file():
        raise WeightsError(f"no such file: {path}")
    try:
        archive = zipfile.is_zipfile(path)
        if archive and (broken := _first_broken_record(path)):
            raise WeightsError(
                f"{path} is damaged: the checksum of its record {broken!r} is wrong. Get the file again."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old or odd files, which are either readable or an error below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except WeightsError:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes the reader trip over
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "weights_only" in str(error) or "Unsupported global" in str(error) or "Weights only" in str(error):
            reason = "it holds more than tensors and plain data, and code from a file is never run"
        raise WeightsError(f"{path} is damaged or not a PyTorch checkpoint: {reason[:200]}") from None


def _first_broken_record(path: Path) -> str | None:
    """Name of the first record of a zip archive that does not have its checksum: torch itself does not look."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def checked_state(entries: object, path: Path) -> State:
    """Require a mapping of names to ordinary tensors and drop the prefixes that wrappers put before every name."""
    if not isinstance(entries, Mapping) or not entries:
        raise WeightsError(f"{path}: expected entries of a model, got {type(entries).__name__} without any")
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path}: expected names with tensors, got {key!r}: {type(value).__name__}")
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.dtype not in _DTYPES:
            raise WeightsError(f"{path}: entry {key!r} is {value.dtype} ({value.layout}); expected plain float tensors")
    state: State = dict(entries)
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def write_pth(
    path: Path, state: State, *, config: ModelConfig, categories: Categories | None, describe: bool = True
) -> Path:
    """Write a checkpoint atomically; equal entries under "ema" and "model" are stored once.

    Args:
        path: the file to create or replace.
        state: all entries of the model, under the names of `config.version`.
        config: the model.
        categories: its classes, where known.
        describe: also store our description; without it the file holds what published files hold, nothing else.

    Raises:
        WeightsError: the file cannot be written.
    """
    content: dict[str, Any] = {"ema": {"module": state, "updates": 0}}
    if describe:
        content |= {"model": state, "rtdetr": metadata(config, categories)}
    return write_atomically(path, lambda temporary: torch.save(content, temporary), error=WeightsError)
