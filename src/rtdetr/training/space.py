"""The disk space that the checkpoints of a run take."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from rtdetr.errors import TrainingError
from rtdetr.files import free_space
from rtdetr.wording import bytes_text


def checkpoint_bytes(model: nn.Module, *, resumable: bool) -> int:
    """About what a checkpoint takes: the average, and to resume from it the weights and AdamW's two moments as well."""
    weights = sum(value.nbytes for value in model.state_dict().values())
    moments = sum(2 * one.nbytes for one in model.parameters() if one.requires_grad)
    return 2 * weights + moments if resumable else weights


def check_space(folder: Path, model: nn.Module, *, keep: int, say: Callable[[str], None]) -> None:
    """Compare what is free with what a run will write, before it has cost anything.

    Args:
        folder: of the run; files of its that are there already are replaced.
        model: the network, with what is frozen frozen.
        keep: checkpoints to resume from that are kept.
        say: is told if there is room to begin, but not for all of them.

    Raises:
        TrainingError: not even the first checkpoint has room.
    """
    last, best = (checkpoint_bytes(model, resumable=resumable) for resumable in (True, False))
    there = sum(file.stat().st_size for file in folder.glob("*.pth"))
    needed = (keep + 1) * last + best - there  # a new one is whole before the oldest goes
    try:
        free = free_space(folder)
    except OSError:
        return  # the system does not tell
    told = f"{folder} has {bytes_text(free)} free"
    if free < last:
        raise TrainingError(
            f"{told}, and one checkpoint takes {bytes_text(last)}. Free some space, or choose another folder (--output)"
        )
    if free < needed:
        say(f"{told}, and the checkpoints of this run may take {bytes_text(needed)}, one being written included")
