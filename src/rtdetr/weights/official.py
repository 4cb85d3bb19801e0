"""PyTorch checkpoints (.pth): read official files and ours, write ours.

Official files contain {"ema": {"module": entries}}, {"model": entries} or both, with training state. Ours are the same
plus "rtdetr", plain data that describes model and classes, so official tools can read them too. Reading never runs
code from the file (`weights_only=True`).
"""

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rtdetr._version import __version__
from rtdetr.categories import Categories
from rtdetr.config import ModelConfig
from rtdetr.errors import InputError, RTDETRError, WeightsError
from rtdetr.files import size_text, write_atomically
from rtdetr.preprocessing import Preparation
from rtdetr.weights.names import State
from rtdetr.wording import counted

FORMAT = 1
_PREFIXES = ("module.", "_orig_mod.")  # added to names by DistributedDataParallel and torch.compile
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool)


class Metadata(NamedTuple):
    """What our files store in addition to the entries."""

    config: ModelConfig
    categories: Categories | None
    thresholds: tuple[float, ...] | None = None  # by label, for `threshold="auto"`
    preparation: Preparation | None = None  # of images that are not stretched; never stored in our files
    training: Mapping[str, Any] | None = None  # settings of the training run
    missing: tuple[str, ...] = ()  # missing files of a Hugging Face folder, replaced by defaults


def metadata(
    config: ModelConfig, categories: Categories | None, *, thresholds: Sequence[float] | None = None
) -> dict[str, Any]:
    """Return the plain data for the key "rtdetr" in a checkpoint, which all our checkpoints contain."""
    measured = {} if thresholds is None else {"thresholds": [float(threshold) for threshold in thresholds]}
    return {
        "format": FORMAT,
        "version": __version__,
        "model": config.model_dump(mode="json"),
        "categories": None if categories is None else categories.to_json(),
        "image_size_hw": None if config.eval_size_hw is None else list(config.eval_size_hw),
        **measured,
    }


def read_metadata(data: object) -> Metadata:
    """Read and check the output of `metadata`.

    Raises:
        WeightsError: it was written by a newer version of this library, or is damaged.
    """
    if not isinstance(data, Mapping):
        raise WeightsError(f"its model description (key 'rtdetr') is damaged: expected an object, got {data!r}")
    expected = {"format": (int, "a number"), "model": (Mapping, "an object"), "categories": (list, "a list or null")}
    for key, (kind, words) in expected.items():
        value = data.get(key, ...)
        if isinstance(value, bool) or not (isinstance(value, kind) or (value is None and key == "categories")):
            found = "is missing" if value is ... else f"is {repr(value)[:100]}"
            raise WeightsError(f"its model description is damaged: {key} {found}, expected {words}")
    if data["format"] > FORMAT:
        raise WeightsError(
            f"its format {data['format']} is newer than {FORMAT}, the latest one supported here. Upgrade rtdetr"
        )
    try:
        rows = data["categories"]
        categories = None if rows is None else Categories.from_json(rows)
    except InputError as error:
        raise WeightsError(f"its model description is damaged: categories: {error}") from None
    try:
        config = ModelConfig.from_record(data["model"])
    except (RTDETRError, TypeError, AttributeError) as error:
        raise WeightsError(f"its model description is damaged: {error}") from None
    size_hw = config.eval_size_hw
    if data.get("image_size_hw", size_hw) not in (size_hw, None if size_hw is None else list(size_hw)):
        raise WeightsError(f"its image_size_hw {data['image_size_hw']!r} contradicts its eval_size_hw {size_hw}")
    if categories is not None and len(categories) != config.num_classes:
        raise WeightsError(
            f"it names {counted(len(categories), 'class')} for a model with {config.num_classes}; categories and "
            "num_classes must agree"
        )
    thresholds, training = _checked_thresholds(data.get("thresholds"), config.num_classes), data.get("training")
    return Metadata(config, categories, thresholds, training=training if isinstance(training, Mapping) else None)


def merged_metadata(data: object, described: Metadata | None) -> object:
    """Fill in missing parts of the data for `read_metadata` from another description, if there is one."""
    if described is None or not isinstance(data, Mapping):
        return data
    return _merged(metadata(described.config, described.categories, thresholds=described.thresholds), data)


def _merged(usual: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge one mapping over another, recursively for nested mappings of the same kind."""
    merged = dict(usual)
    for key, value in changes.items():
        old = usual.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and value.get("kind") in (None, old.get("kind")):
            value = _merged(old, value)
        merged[key] = value
    return merged


def _checked_thresholds(values: object, num_classes: int) -> tuple[float, ...] | None:
    """Return one threshold in 0..1 per class, or None if the file has none."""
    if values is None:
        return None
    # `<=` is False for NaN
    if not isinstance(values, list) or not all(type(value) in (int, float) and 0 <= value <= 1 for value in values):
        raise WeightsError("its score thresholds are damaged; expected numbers in 0..1")
    if len(values) != num_classes:
        raise WeightsError(
            f"it has {counted(len(values), 'score threshold')} for a model with {counted(num_classes, 'class')}"
        )
    return tuple(map(float, values))


def read_own(path: Path) -> dict[str, Any]:
    """Return the complete content of a .pth file that this library wrote, including training checkpoints.

    Raises:
        WeightsError: the file does not exist, is damaged, or has no description by this library.
    """
    content = load_pickle(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("rtdetr"), Mapping):
        raise WeightsError(
            f"expected a .pth file of this library, which can store thresholds, got {path}. "
            f"Create one with: rtdetr weights convert {path} NEW.pth"
        )
    return dict(content)


def store_thresholds(path: Path, thresholds: Sequence[float]) -> Path:
    """Store score thresholds in one of our checkpoints; the rest of the file is unchanged.

    Args:
        path: a .pth file that this library wrote; it is replaced atomically.
        thresholds: one in 0..1 per class, by label.

    Raises:
        WeightsError: as for `read_own`, or the number of classes is wrong, or the file cannot be written.
    """
    return _update_description(path, {"thresholds": [float(threshold) for threshold in thresholds]})


def store_categories(path: Path, categories: Categories) -> Path:
    """Change the class names and ids of one of our checkpoints; the rest of the file is unchanged.

    Args:
        path: a .pth file that this library wrote; it is replaced atomically.
        categories: by label, with as many classes as the file has.

    Raises:
        WeightsError: as for `store_thresholds`.
    """
    return _update_description(path, {"categories": categories.to_json()})


def _update_description(path: Path, changes: Mapping[str, Any]) -> Path:
    content = read_own(path)
    content["rtdetr"] = {**content["rtdetr"], **changes}
    try:
        read_metadata(content["rtdetr"])
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return write_atomically(path, lambda temporary: torch.save(content, temporary), error=WeightsError)


class PthContent(NamedTuple):
    """Content of a PyTorch file.

    Attributes:
        state: entries of the model.
        described: our description, if any.
        averaged: whether the entries are a moving average (EMA); None: unknown, as the file contains only entries.
        moments: shapes of the optimizer's moments, which are those of the trained parameters.
    """

    state: State
    described: Metadata | None
    averaged: bool | None
    moments: tuple[torch.Size, ...] = ()


def read_pth(path: Path, *, average: bool = True) -> PthContent:
    """Read the entries of a PyTorch file and their description.

    Args:
        path: the file.
        average: prefer the EMA weights; False: prefer the trained weights.

    Raises:
        WeightsError: the file does not exist, is damaged, is not a checkpoint, or contains code.
    """
    content = load_pickle(path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: expected a dictionary of weights, got {type(content).__name__}")
    described = content.get("rtdetr")
    averaged, trained = averaged_entries(content), content.get("model")
    is_averaged = bool(averaged) and (average or not trained)
    state = checked_state(averaged if is_averaged else trained or content, path)
    return PthContent(
        state,
        None if described is None else read_metadata(described),
        averaged=is_averaged if averaged or trained else None,
        moments=_moments(content.get("optimizer")),
    )


def _moments(optimizer: object) -> tuple[torch.Size, ...]:
    states = optimizer.get("state") if isinstance(optimizer, Mapping) else None
    rows = states.values() if isinstance(states, Mapping) else ()
    # of AdamW or Muon (`rtdetr.training.muon.MOMENTUM_BUFFER`)
    moments = [row.get("exp_avg", row.get("momentum_buffer")) for row in rows if isinstance(row, Mapping)]
    return tuple(moment.shape for moment in moments if isinstance(moment, Tensor))


def averaged_entries(content: Mapping[str, Any]) -> Any:
    """Return the EMA entries of a checkpoint in the published layout; None if it has none."""
    average = content.get("ema")
    return average.get("module") if isinstance(average, Mapping) else None


def load_pickle(path: Path) -> Any:
    """Call `torch.load` without running code from the file; every error becomes a WeightsError."""
    if not path.is_file():
        raise WeightsError(f"no such file: {path}")
    try:
        archive = zipfile.is_zipfile(path)
        if archive and (broken := _first_broken_record(path)):
            raise WeightsError(
                f"{path} is damaged: the checksum of its record {broken!r} is wrong. Download or copy it again."
            )
        if not archive and (reason := _lacking(path)):
            raise WeightsError(unreadable(path, kind="a PyTorch checkpoint", reason=reason))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for old or unusual files, which are either readable or an error below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except WeightsError:
        raise
    except Exception as error:  # a damaged or malicious file can raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if not _is_pickled(path):
            reason = "it does not begin like one"
        elif "weights_only" in str(error) or "Weights only" in str(error):
            raise WeightsError(
                f"{path} cannot be loaded: it contains more than tensors and plain data, and code from files is never "
                "run. Save only its weights, with torch.save(model.state_dict(), FILE)"
            ) from None
        raise WeightsError(unreadable(path, kind="a PyTorch checkpoint", reason=reason)) from None


def unreadable(path: Path, *, kind: str, reason: str) -> str:
    """Return the message for a weight file that cannot be read: its size, what to do, and the reader's reason."""
    return (
        f"{path} is truncated or damaged, or not {kind} ({size_text(path)}). Compare the size with that of the "
        f"original file, and copy or download it again. Reason: {reason[:200]}"
    )


def _is_pickled(path: Path) -> bool:
    """Whether a file begins like a pickle or like the zip archive that torch puts one into."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def _lacking(path: Path) -> str | None:
    """Return what a file without the end of a zip archive lacks; None if it may be of torch's older format."""
    with path.open("rb") as file:
        start = file.read(2)
    return "the file is empty" if not start else "its end is missing" if start == b"PK" else None


def _first_broken_record(path: Path) -> str | None:
    """Return the first record of a zip archive with a wrong checksum, which torch does not check."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def checked_state(entries: object, path: Path) -> State:
    """Require a mapping of names to plain tensors, and remove prefixes that wrappers add to every name."""
    if not isinstance(entries, Mapping) or not entries:
        raise WeightsError(f"{path}: expected the entries of a model, got {type(entries).__name__} without entries")
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
    path: Path,
    state: State,
    *,
    config: ModelConfig,
    categories: Categories | None,
    thresholds: Sequence[float] | None = None,
    describe: bool = True,
) -> Path:
    """Write a checkpoint atomically; equal entries under "ema" and "model" are stored once.

    Args:
        path: the file to create or replace.
        state: all entries of the model, under the names of `config.version`.
        config: the model.
        categories: its classes, if known.
        thresholds: score thresholds per class, if measured.
        describe: also store our description; without it the file contains only what published files contain.

    Raises:
        WeightsError: the file cannot be written.
    """
    content: dict[str, Any] = {"ema": {"module": state, "updates": 0}}
    if describe:
        content |= {"model": state, "rtdetr": metadata(config, categories, thresholds=thresholds)}
    return write_atomically(path, lambda temporary: torch.save(content, temporary), error=WeightsError)
