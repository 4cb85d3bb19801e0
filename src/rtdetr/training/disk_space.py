"""Check that the disk has space for the checkpoints of a run."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from rtdetr.errors import TrainingError
from rtdetr.files import free_space
from rtdetr.wording import bytes_text


def checkpoint_bytes(model: nn.Module, *, resumable: bool) -> int:
    """Estimate the size of a checkpoint: the EMA weights and, if resumable, the weights and AdamW's two moments."""
    weights = sum(value.nbytes for value in model.state_dict().values())
    moments = sum(2 * one.nbytes for one in model.parameters() if one.requires_grad)
    return 2 * weights + moments if resumable else weights


def check_space(folder: Path, model: nn.Module, *, keep: int, say: Callable[[str], None]) -> None:
    """Compare the free disk space with what the run will write, before training starts.

    Args:
        folder: folder of the run; its existing files are replaced.
        model: the network, with frozen layers already frozen.
        keep: number of resumable checkpoints that are kept.
        say: called with a warning if there is enough space for the first checkpoint, but not for all.

    Raises:
        TrainingError: there is not enough space for the first checkpoint.
    """
    last, best = (checkpoint_bytes(model, resumable=resumable) for resumable in (True, False))
    there = sum(file.stat().st_size for file in folder.glob("*.pth"))
    needed = (keep + 1) * last + best - there  # a new one is complete before the oldest is deleted
    try:
        free = free_space(folder)
    except OSError:
        return  # unknown on this file system
    available = f"{folder} has {bytes_text(free)} free"
    if free < last:
        raise TrainingError(
            f"{available}, but one checkpoint takes {bytes_text(last)}. "
            "Free some space, or choose another folder (--output)"
        )
    if free < needed:
        say(f"{available}, but the checkpoints of this run may take {bytes_text(needed)}, including one being written")
