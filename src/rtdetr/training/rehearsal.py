"""A step before the first one: the largest images with the most objects, so that a lack of memory shows at once.

It is thrown away: weights, running statistics, gradients and random generators are afterwards as they were before.
"""

import datetime
import time
from typing import NamedTuple

import torch

from rtdetr.machine import GIB
from rtdetr.random_state import random_state, set_random_state
from rtdetr.training.job import Job
from rtdetr.training.step import make_gradients, naming_memory
from rtdetr.wording import counted


class Rehearsal(NamedTuple):
    """What the step took.

    Attributes:
        size_hw: height and width of its images.
        num_objects: most objects in one of them.
        seconds: time for forward and backward pass.
        steps_left: of the run.
        peak_bytes: memory of the GPU that was needed at once; None on a CPU.
    """

    size_hw: tuple[int, int]
    num_objects: int
    seconds: float
    steps_left: int
    peak_bytes: int | None

    @property
    def text(self) -> str:
        """What to tell the person who waits; ordinary batches are lighter."""
        total = datetime.timedelta(seconds=round(self.seconds * self.steps_left))
        memory = "" if self.peak_bytes is None else f", {self.peak_bytes / GIB:.1f} GiB of GPU memory"
        height, width = self.size_hw
        return (
            f"at most about {total} for {counted(self.steps_left, 'step')} of {self.seconds:.2f} s, without evaluation "
            f"(measured at {height}x{width} with up to {counted(self.num_objects, 'object')}{memory})"
        )


def rehearse(job: Job) -> Rehearsal:
    """Make two forward and backward passes on the heaviest batch that the run can meet; the second one is timed.

    Raises:
        TrainingError: the memory does not suffice; the message says what would help.
        DatasetError: one of its images cannot be read.
    """
    state, device = job.state, job.device
    images, targets = job.loader.largest_batch()
    generators = random_state()
    buffers = {name: value.clone() for name, value in state.model.named_buffers()}
    job.network.train()
    seconds = 0.0
    try:
        with naming_memory(job, images):
            # what the optimiser will keep from its first step on
            moments = [torch.empty_like(p) for p in state.model.parameters() if p.requires_grad for _ in range(2)]
            for _ in range(2):
                begin = time.perf_counter()
                make_gradients(job, images, targets)
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
