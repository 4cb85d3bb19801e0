"""A step before the first one: the largest images with the most objects, so that a lack of memory shows at once.

It is thrown away: weights, running statistics, gradients and random generators are afterwards as they were before.
"""

import time
from typing import NamedTuple

import torch

from rtdetr.errors import TrainingError
from rtdetr.training.checkpoint import random_state, set_random_state
from rtdetr.training.job import Job
from rtdetr.training.step import make_gradients

GIB = 2**30
_CPU_OUT_OF_MEMORY = "can't allocate memory"


class Rehearsal(NamedTuple):
    """What the step took.

    Attributes:
        size_hw: height and width of its images.
        num_objects: most objects in one of them.
        seconds: time for forward and backward pass, the first of the process and therefore slow.
        peak_bytes: memory of the GPU that was needed at once; None on a CPU.
    """

    size_hw: tuple[int, int]
    num_objects: int
    seconds: float
    peak_bytes: int | None

    @property
    def text(self) -> str:
        """One line for the person who waits."""
        memory = "" if self.peak_bytes is None else f", {self.peak_bytes / GIB:.1f} GiB of GPU memory"
        height, width = self.size_hw
        return f"rehearsal at {height}x{width} with up to {self.num_objects} objects: {self.seconds:.1f} s{memory}"


def rehearse(job: Job) -> Rehearsal:
    """Make one forward and backward pass on the heaviest batch that the run can meet.

    Raises:
        TrainingError: the memory does not suffice; the message says what would help.
        DatasetError: one of its images cannot be read.
    """
    on_gpu = job.device.type == "cuda"
    images, targets = job.loader.largest_batch()
    generators = random_state()
    buffers = {name: value.clone() for name, value in job.state.model.named_buffers()}
    job.network.train()
    begin = time.perf_counter()
    try:
        make_gradients(job, images, targets)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not (isinstance(error, torch.OutOfMemoryError) or _CPU_OUT_OF_MEMORY in str(error)):
            raise
        raise TrainingError(_advice(job, tuple(images.shape[2:]))) from None
    finally:
        job.state.optimizer.zero_grad()
        with torch.no_grad():
            for name, value in job.state.model.named_buffers():
                value.copy_(buffers[name])
        set_random_state(generators)
    return Rehearsal(
        size_hw=(images.shape[2], images.shape[3]),
        num_objects=max(len(target["labels"]) for target in targets),
        seconds=time.perf_counter() - begin,
        peak_bytes=torch.cuda.max_memory_allocated(job.device) if on_gpu else None,
    )


def _advice(job: Job, size_hw: tuple[int, ...]) -> str:
    recipe = job.config.recipe
    remedies = [f"--set accumulate={2 * recipe.accumulate} (the same steps in smaller parts)"]
    if not recipe.gradient_checkpointing:
        remedies.append("--set gradient_checkpointing=true (slower)")
    if job.dtype == torch.float32 and job.device.type == "cuda":
        remedies.append("--precision bfloat16")
    if recipe.batch_size > 1:
        remedies.append(f"--batch-size {recipe.batch_size // 2}")
    remedies.append("a smaller --size")
    return (
        f"out of memory on {job.device} with {recipe.batch_size} images of {size_hw[0]}x{size_hw[1]} a step, in the "
        f"rehearsal of the heaviest batch; nothing was trained. Try {', '.join(remedies)}"
    )
