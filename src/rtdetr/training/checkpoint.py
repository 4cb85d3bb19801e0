"""Checkpoints: one file with everything a run needs to go on exactly where it stood; `resume.py` goes on.

The file is a `torch.save` of plain containers and tensors (it loads with `weights_only=True`) in the published layout
("date", "last_epoch", "model", "ema", "optimizer", "scaler"), plus "trained" (names of the parameters in each group of
the optimiser), "progress", "rng", "data" (fingerprints of the datasets) and our "rtdetr" metadata.
`best.pth` has the same layout with the averaged weights only.
"""

import datetime
import logging
import os
import random
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtdetr.errors import TrainingError, WeightsError
from rtdetr.files import write_atomically
from rtdetr.models import RTDETR
from rtdetr.training.ema import ModelEMA
from rtdetr.training.metrics import Sums
from rtdetr.training.space import checkpoint_bytes
from rtdetr.weights.official import averaged_entries, checked_state, load_pickle

_log = logging.getLogger(__name__)
_CHECKPOINT = re.compile(r"last(-\d+)?\.pth")
NEEDED = ("model", "optimizer", "last_epoch")


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        batches_per_epoch: length of an epoch.
        epoch: the epoch under way, counted from 0.
        batch: its batches that are done; all of them: trained and not yet evaluated.
        iteration: steps made over the whole run.
        best_metric: the metric that decides.
        best_value: its highest value so far; None before the first evaluation.
        best_ap: the validation AP that came with it, in [0, 1]; None where the data has nothing to measure it by.
        best_epoch: the epoch that best.pth is of.
        evaluations_since_best: how many did not.
        thresholds: for each label the score with the best F1 in that evaluation.
        skipped: latest steps, in a row, that were skipped because something was not finite.
        since_row: what was measured in the epoch under way since its last row of metrics.jsonl.
        of_epoch: what was measured in the whole of it.
    """

    batches_per_epoch: int
    epoch: int = 0
    batch: int = 0
    iteration: int = 0
    best_metric: str = "ap"
    best_value: float | None = None
    best_ap: float | None = None
    best_epoch: int | None = None
    evaluations_since_best: int = 0
    thresholds: list[float] | None = None
    skipped: int = 0
    since_row: Sums = field(default_factory=Sums)
    of_epoch: Sums = field(default_factory=Sums)

    def note(self, value: float, *, ap: float, metric: str = "ap") -> bool:
        """Keep the result of the epoch under way if it is the best so far, and return whether it is.

        A value below 0 says that the data has nothing to measure it by; as long as nothing else comes, the latest
        weights count as the best.
        """
        if metric != self.best_metric:  # values of two metrics cannot be compared
            self.best_value, self.best_metric, self.evaluations_since_best = None, metric, 0
        if value < 0:
            if self.best_value is None:
                self.best_ap, self.best_epoch = ap if ap >= 0 else None, self.epoch
            return self.best_value is None
        if self.best_value is not None and value <= self.best_value:
            self.evaluations_since_best += 1
            return False
        self.best_value, self.best_ap, self.best_epoch, self.evaluations_since_best = value, ap, self.epoch, 0
        return True


@dataclass
class TrainingState:
    """The parts of a run that change from step to step."""

    model: RTDETR
    ema: ModelEMA[RTDETR]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    progress: Progress

    @property
    def trained(self) -> list[list[str]]:
        """Names of the parameters in each group of the optimiser, in its order."""
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
    """Write everything needed to resume. The file at `path` is replaced whole or not at all.

    Args:
        path: the file.
        state: what is saved.
        metadata: see `Job.metadata`.
        rng: `random_state` of every process.
        keep: how many checkpoints to keep: `path` and, with 2, the one before it as last-1.pth.
        data: fingerprints of the datasets, where known (`fingerprint.py`).

    Raises:
        TrainingError: the file cannot be written; the old one is untouched.
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
            newer = _aged(path, age - 1)
            if newer.exists():
                _link(newer, _aged(path, age))
    _write(path, {**_header(state, metadata), **parts}, size=checkpoint_bytes(state.model, resumable=True))


def save_best(path: Path, state: TrainingState, *, metadata: Mapping[str, Any]) -> None:
    """Write the averaged weights alone: a file to detect with, a quarter as large as one to resume from.

    Raises:
        TrainingError: the file cannot be written; the old one is untouched.
    """
    _write(path, _header(state, metadata), size=checkpoint_bytes(state.model, resumable=False))


def newest_whole(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run's folder that every checksum in it says is whole; None if there is none."""
    files = sorted((file for file in folder.glob("last*.pth") if _CHECKPOINT.fullmatch(file.name)), key=_age)
    for file in files:
        if is_whole(file):
            return file
        _log.warning("%s is damaged; looking for an older checkpoint", file)
    return None


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is complete and each of its parts has the checksum that was written with it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error):
        return False


def read(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint to resume from, tensors on the CPU.

    Entries have their names without the prefixes of wrappers. "ema" is missing where the run had no average.

    Args:
        path: the file, or the output folder of a run, of which it is the newest whole checkpoint then.

    Raises:
        WeightsError: no such file, a damaged one, or one that cannot be resumed from.
    """
    if path.is_dir():
        path = newest_whole(path) or path / "last.pth"
    if not path.exists():
        raise WeightsError(f"resume: no such file: {path}. Give the output folder of a run, or last.pth in it")
    content = load_pickle(path)
    missing = [key for key in NEEDED if not isinstance(content, Mapping) or key not in content]
    if missing:
        raise WeightsError(
            f"{path}: expected the checkpoint of a training run, but it has no {', '.join(map(repr, missing))}. "
            "Resume from last.pth; to start a new run from these weights, give them as weights"
        )
    content = {**content, "model": checked_state(content["model"], path)}
    averaged = averaged_entries(content)
    average = content.pop("ema", None)
    if averaged:
        content["ema"] = {"updates": 0, **average, "module": checked_state(averaged, path)}
    return content


def _age(path: Path) -> int:
    """0 for last.pth, n for last-n.pth."""
    number = path.stem.removeprefix("last").removeprefix("-")
    return int(number) if number.isdecimal() else 0


def _aged(path: Path, age: int) -> Path:
    return path.with_stem(f"{path.stem}-{age}") if age else path


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, in place of whatever had it; a file system without links gets a copy."""

    def write(temporary: Path) -> None:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)

    write_atomically(target, write, error=TrainingError)


def random_state() -> dict[str, Any]:
    """Return the state of every global random generator as plain values."""
    version, internal, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    return {
        "python": [version, list(internal), gauss],
        "numpy": {**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].tolist()}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Bring the global random generators back to a saved state; a GPU's only where there are as many as then."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    key = np.array(state["numpy"]["state"]["key"], dtype=np.uint32)
    np.random.set_state({**state["numpy"], "state": {**state["numpy"]["state"], "key": key}})
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


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
