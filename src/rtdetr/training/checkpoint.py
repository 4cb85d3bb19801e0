"""Checkpoints: one file with everything needed to resume a run exactly; `resume.py` restores it.

The file is a `torch.save` of plain containers and tensors (it loads with `weights_only=True`) in the published layout
("date", "last_epoch", "model", "ema", "optimizer", "scaler"), plus "trained" (names of the parameters in each group of
the optimizer), "progress", "rng", "data" (fingerprints of the datasets) and our "rtdetr" metadata.
`best.pth` has the same layout with the averaged weights only.
"""

import datetime
import logging
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rtdetr.errors import TrainingError, WeightsError
from rtdetr.files import write_atomically
from rtdetr.models import RTDETR
from rtdetr.reports.progress import Progress
from rtdetr.run_files import LAST_FILE
from rtdetr.training.disk_space import checkpoint_bytes
from rtdetr.training.ema import ModelEMA
from rtdetr.weights.official import averaged_entries, checked_state, load_pickle

_log = logging.getLogger(__name__)
_CHECKPOINT = re.compile(r"last(-\d+)?\.pth")
REQUIRED_KEYS = ("model", "optimizer", "last_epoch")


@dataclass
class TrainingState:
    """The parts of a run that change with each step."""

    model: RTDETR
    ema: ModelEMA[RTDETR]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    progress: Progress

    @property
    def trained(self) -> list[list[str]]:
        """Parameter names per optimizer group, in its order."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [[names[parameter] for parameter in group["params"]] for group in self.optimizer.param_groups]


def save_last(
    path: Path,
    state: TrainingState,
    *,
    metadata: Mapping[str, Any],
    rng: list[dict[str, Any]],
    keep: int = 1,
    data: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write everything needed to resume. The file at `path` is replaced atomically.

    Args:
        path: the checkpoint.
        state: the state to save.
        metadata: see `Job.metadata`.
        rng: `random_state` of every process.
        keep: number of checkpoints to keep: with 2, the previous one is kept as last-1.pth.
        data: fingerprints of the datasets, if known (`fingerprint.py`).

    Raises:
        TrainingError: the file cannot be written; the previous one is kept.
    """
    parts = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "trained": state.trained,
        "scaler": state.scaler.state_dict(),
        "rng": rng,
        **({} if data is None else {"data": dict(data)}),
    }
    if path.exists():
        for age in range(keep - 1, 0, -1):
            newer = _path_of_age(path, age - 1)
            if newer.exists():
                _link(newer, _path_of_age(path, age))
    _write(path, {**_header(state, metadata), **parts}, size=checkpoint_bytes(state.model, resumable=True))


def save_best(path: Path, state: TrainingState, *, metadata: Mapping[str, Any]) -> None:
    """Write only the EMA weights, for inference: a quarter of the size of a resumable checkpoint.

    Raises:
        TrainingError: the file cannot be written; the previous one is kept.
    """
    _write(path, _header(state, metadata), size=checkpoint_bytes(state.model, resumable=False))


def newest_undamaged(folder: Path) -> Path | None:
    """Return the newest checkpoint in the folder of a run whose checksums are all correct; None if there is none."""
    files = sorted((file for file in folder.glob("last*.pth") if _CHECKPOINT.fullmatch(file.name)), key=_age_of)
    for file in files:
        if is_undamaged(file):
            return file
        _log.warning("%s is damaged; trying the previous checkpoint", file)
    return None


def is_undamaged(path: Path) -> bool:
    """Whether a checkpoint is complete and all its checksums are correct."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error):
        return False


def read(path: Path) -> dict[str, Any]:
    """Return the content of a resumable checkpoint, tensors on the CPU.

    Prefixes of wrappers (`module.`) are removed from the names of entries. "ema" is missing if the run had no EMA.

    Args:
        path: the file, or the output folder of a run, from which the newest undamaged checkpoint is read.

    Raises:
        WeightsError: the file is missing, damaged, or not resumable.
    """
    if path.is_dir():
        path = newest_undamaged(path) or path / LAST_FILE
    if not path.exists():
        raise WeightsError(f"resume: {path} does not exist. Give the output folder of a run, or last.pth in it")
    content = load_pickle(path)
    missing = [key for key in REQUIRED_KEYS if not isinstance(content, Mapping) or key not in content]
    if missing:
        raise WeightsError(
            f"{path} is not a resumable checkpoint: it has no {', '.join(map(repr, missing))}. "
            f"Resume from last.pth; to start a new run from these weights, use --weights {path}"
        )
    content = {**content, "model": checked_state(content["model"], path)}
    averaged = averaged_entries(content)
    average = content.pop("ema", None)
    if averaged:
        content["ema"] = {"updates": 0, **average, "module": checked_state(averaged, path)}
    return content


def _age_of(path: Path) -> int:
    """0 for last.pth, n for last-n.pth."""
    number = path.stem.removeprefix("last").removeprefix("-")
    return int(number) if number.isdecimal() else 0


def _path_of_age(path: Path, age: int) -> Path:
    return path.with_stem(f"{path.stem}-{age}") if age else path


def _link(source: Path, target: Path) -> None:
    """Hard-link `target` to a file, replacing it; on file systems without links, copy."""

    def write(temporary: Path) -> None:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)

    write_atomically(target, write, error=TrainingError)


def _header(state: TrainingState, metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "last_epoch": state.progress.epoch - 1,
        "ema": state.ema.state_dict(),
        "progress": asdict(state.progress),
        "rtdetr": dict(metadata),
    }


def _write(path: Path, content: Mapping[str, Any], *, size: int) -> None:
    write_atomically(path, lambda temporary: torch.save(dict(content), temporary), error=TrainingError, size=size)
