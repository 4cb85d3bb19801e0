"""Trial step before training, with the largest images and the most objects, to detect out-of-memory errors early.

Weights, running statistics, gradients and random generators are restored afterwards.
"""

import datetime
import time
from typing import NamedTuple

import torch

from rtdetr.machine import GIB
from rtdetr.random_state import random_state, set_random_state
from rtdetr.training.job import Job
from rtdetr.training.muon import Muon
from rtdetr.training.step import explain_out_of_memory, make_gradients
from rtdetr.wording import counted


class Rehearsal(NamedTuple):
    """Time and memory of the trial step.

    Attributes:
        size_hw: height and width of its images.
        num_objects: largest number of objects per image.
        seconds: time of the forward and backward pass.
        steps_left: remaining steps of the run.
        peak_bytes: peak GPU memory; None on a CPU.
    """

    size_hw: tuple[int, int]
    num_objects: int
    seconds: float
    steps_left: int
    peak_bytes: int | None

    @property
    def text(self) -> str:
        """Time estimate for the user; typical batches take less time."""
        total = datetime.timedelta(seconds=round(self.seconds * self.steps_left))
        memory = "" if self.peak_bytes is None else f", {self.peak_bytes / GIB:.1f} GiB of device memory"
        height, width = self.size_hw
        return (
            f"at most about {total} for {counted(self.steps_left, 'step')} of {self.seconds:.2f} s, without evaluation "
            f"(measured at {height}x{width} with up to {counted(self.num_objects, 'object')}{memory})"
        )


def rehearse(job: Job) -> Rehearsal:
    """Run two forward and backward passes on the most demanding batch of the run, and time the second one.

    Raises:
        TrainingError: out of memory; the message suggests remedies.
        DatasetError: one of its images cannot be read.
    """
    state, device = job.state, job.device
    images, targets = job.loader.largest_batch()
    generators = random_state()
    buffers = {name: value.clone() for name, value in state.model.named_buffers()}
    job.network.train()
    seconds = 0.0
    try:
        with explain_out_of_memory(job, images):
            # placeholders for the moments that the optimizer allocates in its first step
            moments = [torch.empty_like(p) for p in state.model.parameters() if p.requires_grad for _ in range(2)]
            for _ in range(2):
                begin = time.perf_counter()
                make_gradients(job, images, targets)
                if isinstance(state.optimizer, Muon):
                    state.optimizer.rehearse()
                seconds = time.perf_counter() - begin
            del moments
    finally:
        state.optimizer.zero_grad()
        with torch.no_grad():
            for name, value in state.model.named_buffers():
                value.copy_(buffers[name])
        set_random_state(generators)
    progress = state.progress
    done = progress.epoch * progress.batches_per_epoch + progress.batch
    return Rehearsal(
        size_hw=(images.shape[2], images.shape[3]),
        num_objects=max(len(target["labels"]) for target in targets),
        seconds=seconds,
        steps_left=job.config.recipe.epochs * progress.batches_per_epoch - done,
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )
