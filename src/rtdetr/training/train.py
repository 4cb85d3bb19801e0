"""THE training loop: `run` goes through the epochs, `_train_epoch` through the batches of one. Read it from the top.

Everything it needs is built in `setup.py`, and all that changes from step to step is in one `TrainingState`
(`checkpoint.py`), so a run can stop after any step and go on as if it had not.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rtdetr.config import TrainConfig
from rtdetr.errors import TrainingError
from rtdetr.training.checkpoint import save_best, save_last
from rtdetr.training.run_log import RunLog
from rtdetr.training.schedule import set_learning_rate
from rtdetr.training.setup import BEST_FILE, LAST_FILE, Job, MakeDetector, prepare
from rtdetr.training.signals import StopSignals


class TrainResult(NamedTuple):
    """What a run ended with.

    Attributes:
        output_dir: folder with config.json, metrics.jsonl, learning_curve.png, tensorboard/ and the checkpoints.
        best_weights: best.pth, to detect with; None as long as nothing was evaluated.
        best_ap: its validation AP (IoU 0.50 to 0.95), in [0, 1].
        last_weights: last.pth, to resume from.
        finished: False if a signal stopped the run before its last epoch was through.
    """

    output_dir: Path
    best_weights: Path | None
    best_ap: float | None
    last_weights: Path
    finished: bool


def run(config: TrainConfig, *, make_detector: MakeDetector, resume: Mapping[str, Any] | None = None) -> TrainResult:
    """Train as `config` says.

    Args:
        config: what to train on what and how.
        make_detector: turns the averaged model and its classes into the callable that is evaluated.
        resume: content of a checkpoint to go on from (`checkpoint.read`).

    Raises:
        ConfigError, DatasetError, WeightsError: what was asked for cannot be done; nothing has been trained.
        TrainingError: the loss became not finite, or a file cannot be written; the last good checkpoint is kept.
    """
    job = prepare(config, make_detector=make_detector, resume=resume)
    state, progress, epochs = job.state, job.state.progress, config.recipe.epochs
    last, best = job.folder / LAST_FILE, job.folder / BEST_FILE
    log = RunLog(job.folder, progress, num_epochs=epochs, every=config.log_every)
    with StopSignals() as stop, log:
        log.say(job.description)
        while progress.epoch < epochs:
            _train_epoch(job, log=log, stop=stop)
            save_last(last, state, metadata=job.metadata)  # before the evaluation too, which can take minutes
            if stop.received:
                log.say(f"{stop.received}: stopped after step {progress.iteration}; go on with --resume {job.folder}")
                break
            metrics = job.evaluate() if job.is_evaluated(progress.epoch) else None
            improved = metrics is not None and progress.note(metrics.ap)
            log.end_epoch(None if metrics is None else metrics.numbers)
            progress.epoch, progress.batch = progress.epoch + 1, 0
            if improved:
                save_best(best, state, metadata=job.metadata)
            save_last(last, state, metadata=job.metadata)
    best_weights = None if progress.best_ap is None else best
    return TrainResult(job.folder, best_weights, progress.best_ap, last, finished=progress.epoch >= epochs)


def _train_epoch(job: Job, *, log: RunLog, stop: StopSignals) -> None:
    """Go through the batches of the epoch that are not done yet."""
    recipe, progress = job.config.recipe, job.state.progress
    model, optimizer, scaler = job.state.model, job.state.optimizer, job.state.scaler
    model.train()
    job.loader.set_epoch(progress.epoch, start_batch=progress.batch)
    for images, targets in log.batches(job.loader):
        rates = set_learning_rate(optimizer, recipe, iteration=progress.iteration, iterations_per_epoch=len(job.loader))
        images = images.contiguous(memory_format=job.memory_format)
        with torch.autocast(job.device.type, dtype=job.dtype, enabled=job.dtype != torch.float32):
            output = model(images, targets)
        losses = job.criterion(output, targets)  # in float32
        terms = _finite_terms(losses, job)

        loss = torch.stack(list(losses.values())).sum()
        scaler.scale(loss).backward()  # the scaler does nothing unless the precision is float16
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_max_norm or math.inf).item()
        if not (math.isfinite(norm) or scaler.is_enabled()):
            raise TrainingError(f"the gradient is not finite ({norm}) although the loss is, {_place(job)}")
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        job.state.ema.update(model)

        progress.batch += 1
        progress.iteration += 1
        log.step(terms, gradient_norm=norm, learning_rates=rates, num_images=len(images))
        if stop.received:
            return


def _finite_terms(losses: dict[str, Tensor], job: Job) -> dict[str, float]:
    """Return the loss terms as numbers; before anything is changed, refuse those that would spoil the weights.

    Differs: published code looks after the step, when weights and average are spoiled already.
    """
    values = torch.stack([value.detach() for value in losses.values()]).tolist()  # one wait for the device
    terms = dict(zip(losses, values, strict=True))
    broken = [f"{name} is {value}" for name, value in terms.items() if not math.isfinite(value)]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise TrainingError(f"the loss is not finite ({', '.join(broken[:3])}{more}), {_place(job)}")
    return terms


def _place(job: Job) -> str:
    progress = job.state.progress
    images = ", ".join(map(str, job.loader.image_ids(progress.batch)))
    return (
        f"in step {progress.iteration + 1}, batch {progress.batch + 1} of epoch {progress.epoch + 1}, "
        f"image ids {images}. {job.folder} still holds the last good checkpoint. "
        "Check these images and their boxes, lower the learning rate, or train in float32"
    )
