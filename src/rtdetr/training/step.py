"""One training step: forward, loss, backward, gradient clipping, optimizer and EMA, and the handling of failures.

A batch is split over the processes, and within each into `Recipe.accumulate` parts (gradient accumulation). The loss is
normalized by the number of boxes in all parts and processes, so the gradient does not depend on either split.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rtdetr.errors import TrainingError
from rtdetr.files import write_atomically
from rtdetr.run_files import LAST_FILE
from rtdetr.structures import Guidance, Target
from rtdetr.training.distributed import no_sync
from rtdetr.training.job import Job
from rtdetr.wording import counted, listed

CPU_OUT_OF_MEMORY = "can't allocate memory"
MAX_SKIPPED = 10  # steps in a row before the run ends
MAX_OVERFLOWS = 40  # the same in float16, whose scaler begins at 2^16 and halves each time
MAX_SAVED = 5  # bad batches kept per run and process


class StepResult(NamedTuple):
    """Result of a training step.

    Attributes:
        terms: weighted loss terms, averaged over the processes.
        gradient_norm: global norm before clipping; infinite on float16 overflow, which is expected.
        skipped: whether the step was skipped because the loss or gradient was not finite; no weight was changed.
    """

    terms: dict[str, float]
    gradient_norm: float
    skipped: bool = False


def train_step(job: Job, images: Tensor, targets: list[Target]) -> StepResult:
    """Run one step on this process's share of a batch. `job.state.progress` is not advanced here.

    Raises:
        TrainingError: the loss or the gradient is not finite, and the recipe stops the run in this case, or too many
            steps in a row were skipped. Weights, optimizer and EMA are unchanged, and the batch was saved.
    """
    recipe, state = job.config.recipe, job.state
    optimizer, scaler = state.optimizer, state.scaler
    with explain_out_of_memory(job, images):
        terms = make_gradients(job, images, targets)
    broken = [f"{name} is {value}" for name, value in terms.items() if not math.isfinite(value)]
    if broken:
        return _reject_step(job, images, targets, f"the loss is not finite ({listed(broken, 3)})", terms)
    scaler.unscale_(optimizer)  # the scaler does nothing unless the precision is float16
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_max_norm or math.inf).item()
    if not (math.isfinite(norm) or scaler.is_enabled()):
        return _reject_step(job, images, targets, f"the gradient is not finite ({norm}) although the loss is", terms)
    if math.isfinite(norm):
        state.progress.skipped = 0
    elif state.progress.skipped >= MAX_OVERFLOWS:
        return _reject_step(job, images, targets, f"the gradient is not finite ({norm}) in float16", terms)
    else:
        state.progress.skipped += 1
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    state.ema.update(state.model)
    return StepResult(terms, norm)


@contextlib.contextmanager
def explain_out_of_memory(job: Job, images: Tensor) -> Iterator[None]:
    """Turn an out-of-memory error into a `TrainingError` that suggests remedies."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or CPU_OUT_OF_MEMORY in str(error)):
            raise
        raise TrainingError(_advice(job, images)) from None


def _advice(job: Job, images: Tensor) -> str:
    recipe, (height, width) = job.config.recipe, images.shape[2:]
    remedies = [f"--set train.accumulate={2 * recipe.accumulate} (same result, smaller parts)"]
    if not recipe.gradient_checkpointing:
        remedies.append("--set train.gradient_checkpointing=true (slower)")
    if job.dtype == torch.float32 and job.device.type == "cuda":
        remedies.append("--precision bfloat16")
    if recipe.batch_size > 1:
        remedies.append(f"--batch-size {recipe.batch_size // 2}")
    remedies.append("a smaller --size")
    return (
        f"out of memory on {job.device} with a batch of {counted(recipe.batch_size, 'image')} of {height}x{width}. "
        f"Try {', '.join(remedies)}"
    )


def make_gradients(job: Job, images: Tensor, targets: list[Target]) -> dict[str, float]:
    """Accumulate the gradients of a batch and return its loss terms.

    If a term is not finite in any process, the remaining gradients are not computed.
    """
    parts = job.config.recipe.accumulate
    if parts > 1:  # as many in every process, none of them empty
        parts = min(parts, job.processes.minimum(len(targets)))
    num_boxes = job.processes.mean_number(float(sum(len(target["labels"]) for target in targets)))
    guidance = _guidance(job, images, parts)
    shares: dict[str, float] = {}
    if guidance:
        total = sum(job.distillation.score(one) for one in guidance)
        count = job.processes.world_size
        shares["total_score"] = max(job.processes.mean_number(total) * count, 1.0) / count
        shares["num_images"] = job.processes.mean_number(float(len(images)))
    totals: dict[str, float] = {}
    for part, (some_images, some_targets) in enumerate(_split(images, targets, parts)):
        with no_sync(job.network, active=part + 1 < parts):
            some_images = some_images.contiguous(memory_format=job.memory_format)
            with torch.autocast(job.device.type, dtype=job.dtype, enabled=job.dtype != torch.float32):
                guide = {"guide": job.distillation.queries(guidance[part])} if guidance else {}
                output = job.network(some_images, some_targets, **guide)
            losses = job.criterion(output, some_targets, num_boxes=num_boxes)  # in float32
            if guidance:
                losses |= job.distillation(output, guidance[part], **shares)
            stacked = torch.stack(list(losses.values()))
            values = job.processes.mean(stacked.detach()).tolist()  # one wait for the device
            for name, value in zip(losses, values, strict=True):
                totals[name] = totals.get(name, 0.0) + value
            if not all(map(math.isfinite, values)):
                return totals
            job.state.scaler.scale(stacked.sum()).backward()
    return totals


def _guidance(job: Job, images: Tensor, parts: int) -> list[Guidance]:
    """Return what the teacher detects in each part of a batch; an empty list without a teacher."""
    if job.teacher is None:
        return []
    with torch.autocast(job.device.type, dtype=job.dtype, enabled=job.dtype != torch.float32):
        return [
            job.teacher(
                some.contiguous(memory_format=job.memory_format), with_maps=job.distillation.config.maps_weight > 0
            )
            for some in images.tensor_split(parts)
        ]


def _split(images: Tensor, targets: list[Target], parts: int) -> Iterator[tuple[Tensor, list[Target]]]:
    """Yield the parts of a batch; their sizes differ by at most one."""
    done = 0
    for some_images in images.tensor_split(parts):
        yield some_images, targets[done : done + len(some_images)]
        done += len(some_images)


def _reject_step(job: Job, images: Tensor, targets: list[Target], problem: str, terms: dict[str, float]) -> StepResult:
    """Undo the step and save its batch; then stop the run or skip the step."""
    progress = job.state.progress
    job.state.optimizer.zero_grad()
    progress.skipped += 1
    file = job.folder / f"bad_batch_{progress.iteration + 1}_rank{job.processes.rank}.pt"
    ids = job.loader.image_ids(progress.batch)
    content = {"images": images.cpu(), "targets": targets, "image_ids": ids, "terms": terms}

    saved = f"the batch is saved as {file}"
    if len(list(job.folder.glob(f"bad_batch_*_rank{job.processes.rank}.pt"))) >= MAX_SAVED:
        saved = f"the batch is not saved, because the folder already has {MAX_SAVED} such batches"
    else:
        try:
            write_atomically(file, lambda temporary: torch.save(content, temporary), error=TrainingError)
        except TrainingError as error:
            saved = f"the batch is not saved: {error}"
    place = (
        f"in step {progress.iteration + 1}, batch {progress.batch + 1} of epoch {progress.epoch + 1}, "
        f"image ids {', '.join(map(str, ids))}; {saved}"
    )
    if job.config.recipe.non_finite == "skip" and progress.skipped <= MAX_SKIPPED:
        if job.processes.is_main:
            job.log.warning("%s, %s. The step is skipped", problem, place)
        return StepResult(terms, math.nan, skipped=True)
    often = f" {counted(progress.skipped, 'step')} in a row" if progress.skipped > MAX_SKIPPED else ""
    last = job.folder / LAST_FILE
    kept = f"{last} still contains an earlier step" if last.exists() else "No checkpoint had been written yet"
    raise TrainingError(
        f"{problem}{often}, {place}. {kept}. Check these images and their "
        "boxes, lower the learning rate, or train in float32"
    )
