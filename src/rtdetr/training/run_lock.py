"""Lock the folder of a run, so that only one process at a time writes to it."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rtdetr.errors import ConfigError, TrainingError
from rtdetr.files import write_text
from rtdetr.process_lock import ProcessLock
from rtdetr.run_files import BEST_FILE, CONFIG_FILE, LAST_FILE, PLAN_FILE
from rtdetr.training.disk_space import check_space
from rtdetr.training.fingerprint import update_classes
from rtdetr.training.job import Job

LOCK_FILE = ".lock"  # the file stays, the lock ends with its process
PATIENCE = 10.0  # seconds; the data workers of a killed run hold the lock until they notice, every 5 s


_running = ProcessLock()


@contextlib.contextmanager
def one_run_per_process() -> Iterator[None]:
    """Allow only one run at a time in a process, because all runs would share the global random generators.

    Raises:
        ConfigError: another run is in progress in this process.
    """
    with _running.hold(blocking=False) as is_only:
        if not is_only:
            raise ConfigError(
                "another training run is in progress in this process. Both would share the random generators, so "
                "neither would be reproducible. Start this run in its own process, or after the other one has ended"
            )
        yield


@contextlib.contextmanager
def lock_run_folder(job: Job, *, resume: Mapping[str, Any] | None, dry_run: bool) -> Iterator[None]:
    """Lock the folder of the run, and write config.json and plan.txt; called in the main process only.

    Args:
        job: the run.
        resume: the checkpoint it resumes from; None: the folder must not contain a run.
        dry_run: write these two files only.

    Raises:
        ConfigError: the folder contains another run (a dry run only warns), or another process is writing to it.
        TrainingError: the folder cannot be written, or the disk has no space for a checkpoint.
    """
    folder, config = job.folder, job.config
    if resume is None and (folder / LAST_FILE).exists():
        text = f"{folder} already contains a run. Resume it (--resume {folder}), or choose another folder (--output)"
        if not dry_run:
            raise ConfigError(text)
        job.log.warning("%s. Nothing is written there", text)
        yield
        return
    if not dry_run:
        check_space(folder, job.state.model, keep=config.keep_last, say=job.log.warning)
    with _locked(folder):
        for name, text in ((CONFIG_FILE, config.model_dump_json(indent=1)), (PLAN_FILE, job.description)):
            write_text(folder / name, text + "\n", error=TrainingError)
        for leftover in folder.glob(".*.pth.*.tmp"):  # of a process that was killed while saving
            leftover.unlink(missing_ok=True)
        if resume is not None and not dry_run:
            files = [folder / BEST_FILE, folder / LAST_FILE]
            update_classes(files, resume, job.train_data.categories, say=job.log.warning)
        yield


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK_FILE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise ConfigError(
            f"another process is writing a run to {folder}. Wait until it ends, stop it, or choose another folder "
            "(--output)"
        ) from None
    except (OSError, NotImplementedError):
        pass  # a file system without locks; the next write reports a folder that cannot be written
    try:
        yield
    finally:
        lock.release()
