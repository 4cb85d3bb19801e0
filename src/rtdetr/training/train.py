"""The training loop: `run` prepares a run, `_train_epochs` loops over epochs, `_train_epoch` over the batches of one.

`setup.py` builds everything that the loop needs. All values that change between steps are in one `TrainingState`
(`checkpoint.py`), so a run can stop after any step and resume exactly.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rtdetr.config import TrainConfig
from rtdetr.data.pipelines import Pipeline
from rtdetr.errors import TrainingError
from rtdetr.native import reuse_all_memory
from rtdetr.random_state import random_state
from rtdetr.recipes.plan import note_time
from rtdetr.recipes.schedule import set_learning_rate
from rtdetr.reports.outlook import OUTLOOK_FILE
from rtdetr.reports.run_folder import EvaluationPages, attempt, write_start
from rtdetr.reports.run_log import RunLog, SilentLog
from rtdetr.run_files import BEST_FILE, LAST_FILE, PLAN_FILE
from rtdetr.training import pseudo_labels
from rtdetr.training.checkpoint import save_best, save_last
from rtdetr.training.distributed import join
from rtdetr.training.fingerprint import Datasets
from rtdetr.training.job import Job, MakeDetector
from rtdetr.training.outlook import write_outlook
from rtdetr.training.rehearsal import rehearse
from rtdetr.training.run_lock import lock_run_folder, one_run_per_process
from rtdetr.training.setup import prepare
from rtdetr.training.signals import StopSignals
from rtdetr.training.step import train_step
from rtdetr.wording import counted


class TrainResult(NamedTuple):
    """Result of a training run.

    Attributes:
        output_dir: folder with config.json, metrics.jsonl, learning_curve.png, tensorboard/ and the checkpoints.
        best_weights: best.pth, the weights for inference; None if nothing was evaluated.
        best_ap: its validation AP (IoU 0.50 to 0.95), in [0, 1]. None also if the validation data has no objects; then
            best.pth contains the weights of the last evaluation.
        last_weights: last.pth, to resume from.
        finished: False if a signal stopped the run before the end of its last epoch.
        signal: name of that signal, "SIGINT" (Ctrl-C) or "SIGTERM"; None if there was none.
        plan: text of plan.txt; empty except in the main process.
    """

    output_dir: Path
    best_weights: Path | None
    best_ap: float | None
    last_weights: Path
    finished: bool
    signal: str | None = None
    plan: str = ""


def run(
    config: TrainConfig,
    datasets: Datasets,
    *,
    make_detector: MakeDetector,
    resume: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    transforms: Pipeline | None = None,
) -> TrainResult:
    """Train a model, together with the other processes of the run if torchrun started several.

    Args:
        config: the final settings.
        datasets: "train", and "val" if it is evaluated.
        make_detector: builds the detector to evaluate from the averaged model and its classes.
        resume: content of the checkpoint to resume from (`checkpoint.read`).
        dry_run: build everything without downloading weights, write config.json and plan.txt, and stop.
        transforms: augmentation in place of the recipe's; see `TrainLoader`.

    Raises:
        ConfigError, DatasetError, WeightsError: settings, data or weights are invalid; nothing was trained.
        TrainingError: the loss is not finite, memory ran out, or a file cannot be written; the last good checkpoint is
            kept.
    """
    with one_run_per_process(), join(config.device) as processes, _deterministic(wanted=config.deterministic):
        job = prepare(
            config,
            datasets,
            make_detector=make_detector,
            resume=resume,
            processes=processes,
            transforms=transforms,
            dry_run=dry_run,
        )
        with lock_run_folder(job, resume=resume, dry_run=dry_run) if processes.is_main else contextlib.nullcontext():
            if dry_run:
                last = job.folder / LAST_FILE
                return TrainResult(job.folder, None, None, last, finished=False, plan=job.description)
            return _run(job)


@contextlib.contextmanager
def _deterministic(*, wanted: bool) -> Iterator[None]:
    """Use only deterministic operations of torch in the block, if `wanted`."""
    former = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(former[0])
        torch.backends.cudnn.benchmark = former[1]


def _run(job: Job) -> TrainResult:
    progress, epochs = job.state.progress, job.config.recipe.epochs
    is_main = job.processes.is_main
    with (
        reuse_all_memory() if job.device.type == "cpu" else contextlib.nullcontext(),
        StopSignals(patient=job.processes.world_size > 1) as stop,
        EvaluationPages(job.folder, font=job.config.font) if is_main else contextlib.nullcontext() as pages,
        _open_log(job) as log,
    ):
        log.say(job.description)
        if pages is not None and job.pseudo_labels is not None:
            pseudo_labels.save(job.folder, job.pseudo_labels)
        if pages is not None:
            write_start(
                job.folder,
                config=job.config,
                device=job.device,
                train_data=job.train_data,
                val_data=job.val_data,
                loader=job.loader,
            )
        if job.config.rehearsal and progress.epoch < epochs:
            measured = rehearse(job)
            log.say(measured.text)
            if pages is not None:
                note_time(job.folder / PLAN_FILE, job.description, measured.text)
        if pages is not None and progress.epoch < epochs:
            (job.folder / OUTLOOK_FILE).unlink(missing_ok=True)  # of an earlier, shorter part of a resumed run
        signal = _train_epochs(job, log=log, stop=stop, pages=pages)
        if pages is not None and signal is None and not (job.folder / OUTLOOK_FILE).exists():
            attempt("the outlook", lambda: write_outlook(job, say=log.say))
    best_weights = None if progress.best_epoch is None else job.folder / BEST_FILE
    return TrainResult(
        job.folder,
        best_weights,
        progress.best_ap,
        job.folder / LAST_FILE,
        finished=signal is None,
        signal=signal,
        plan=job.description,
    )


def _train_epochs(job: Job, *, log: RunLog | SilentLog, stop: StopSignals, pages: EvaluationPages | None) -> str | None:
    """Train, save, evaluate and save in each epoch, until the last epoch, a signal or early stopping.

    Returns:
        The name of the signal that ended the run; None if there was none.
    """
    progress = job.state.progress
    if progress.epoch >= job.config.recipe.epochs:
        done = counted(progress.epoch, "epoch")
        log.say(f"nothing left to do: the run has finished its {done}. To train longer: --epochs N")
    while progress.epoch < job.config.recipe.epochs and not job.should_stop_early:
        stopped = _train_epoch(job, log=log, stop=stop)
        _save(job, log, keep=job.config.keep_last)  # before the evaluation, which can take minutes, too
        if stopped:
            signal = next(name for name in job.processes.gather_all(stop.received) if name is not None)
            log.say(f"{signal}: stopped after step {progress.iteration}. Resume with --resume {job.folder}")
            return signal
        report = job.evaluate() if job.is_evaluated(progress.epoch) else None
        found = job.processes.broadcast(None if report is None else (job.selection_metric(report), report.metrics.ap))
        improved = found is not None and progress.note(found[0], ap=found[1], metric=job.config.best_metric)
        log.end_epoch(None if report is None else report.metrics.numbers)
        progress.epoch, progress.batch = progress.epoch + 1, 0
        if improved and report is not None and pages is not None:  # in the main process
            progress.thresholds = report.best_f1_thresholds
            _save_best(job, log)
            pages.write_best(report)
        _save(job, log)
    if job.should_stop_early and progress.epoch < job.config.recipe.epochs:
        log.say(f"stopped early: no improvement in the last {counted(progress.evaluations_since_best, 'evaluation')}")
    return None


def _save_best(job: Job, log: RunLog | SilentLog) -> None:
    """Write best.pth. A full disk does not end the run."""
    try:
        save_best(job.folder / BEST_FILE, job.state, metadata=job.metadata)
    except TrainingError as error:
        log.say(f"{error} Training continues without saving the weights of this evaluation as best.pth")


def _open_log(job: Job) -> RunLog | SilentLog:
    """Return the log of the main process; other processes are silent."""
    if not job.processes.is_main:
        return SilentLog()
    config = job.config
    return RunLog(
        job.folder,
        job.state.progress,
        num_epochs=config.recipe.epochs,
        every=config.log_every,
        device=job.device,
        loggers=config.loggers,
        config=config.model_dump(mode="json"),
    )


def _train_epoch(job: Job, *, log: RunLog | SilentLog, stop: StopSignals) -> bool:
    """Train on the remaining batches of the epoch; return whether a signal asked to stop."""
    recipe, progress = job.config.recipe, job.state.progress
    job.network.train()
    job.loader.set_epoch(progress.epoch, start_batch=progress.batch)
    for images, targets in log.batches(job.loader):
        rates = set_learning_rate(
            job.state.optimizer, recipe, iteration=progress.iteration, iterations_per_epoch=len(job.loader)
        )
        result = train_step(job, images, targets)
        progress.batch += 1
        progress.iteration += 1
        log.step(
            None if result.skipped else result.terms,
            gradient_norm=result.gradient_norm,
            learning_rates=rates,
            num_images=len(images) * job.processes.world_size,
        )
        if job.processes.any(stop.received is not None):
            return True
        if job.config.save_every and progress.iteration % job.config.save_every == 0:
            _save(job, log)
    return False


def _save(job: Job, log: RunLog | SilentLog, *, keep: int = 1) -> None:
    """Write last.pth. Before the last epoch, a full disk does not end the run, because the previous file still exists.

    Raises:
        TrainingError: the file cannot be written, and there is no previous one.
    """
    rng = job.processes.gather(random_state())
    if not job.processes.is_main:
        return
    path = job.folder / LAST_FILE
    try:
        save_last(path, job.state, metadata=job.metadata, rng=rng, keep=keep, data=job.fingerprints)
    except TrainingError as error:
        if not path.exists() or job.state.progress.epoch >= job.config.recipe.epochs:
            raise
        log.say(f"{error} Training continues; {path} still contains an earlier step")
