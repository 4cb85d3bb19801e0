"""The outlook of a finished run: measures AP on training images, and collects the numbers for `reports/outlook.py`.

Only the main process does this, after the last checkpoint, so that the other processes and the checkpoints do not
depend on it.
"""

import copy
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rtdetr.config import TrainConfig
from rtdetr.data import DetectionDataset
from rtdetr.errors import TrainingError
from rtdetr.evaluation.page import read_record
from rtdetr.files import write_text
from rtdetr.reports.metrics import read_records
from rtdetr.reports.outlook import OUTLOOK_FILE, Outlook, RunNumbers, outlook
from rtdetr.reports.run_folder import EVALUATION_FILE
from rtdetr.run_files import BEST_FILE, CONFIG_FILE
from rtdetr.training.job import Job
from rtdetr.weights.official import averaged_entries, load_pickle

MAX_IMAGES = 200  # training images to measure AP on
_SIZES = ("r18vd", "r34vd", "r50vd_m", "r50vd", "r101vd")  # of both versions, by number of parameters


def write_outlook(job: Job, *, say: Callable[[str], None]) -> Outlook | None:
    """Measure AP on training images, and write outlook.json to the run folder; None if the run has no AP.

    Args:
        job: the finished run.
        say: prints a line for the user.

    Raises:
        DatasetError: a training image cannot be read.
        TrainingError: the file cannot be written.
    """
    progress, val_data = job.state.progress, job.val_data
    if val_data is None or progress.best_ap is None:
        return None
    sample = sample_images(job.num_labelled, min(MAX_IMAGES, len(val_data)), seed=job.config.seed)
    train_ap, sampled = _training_ap(job, sample)
    found = outlook(
        RunNumbers(
            curve=[(row["iteration"], row["ap"][0]) for row in read_records(job.folder) if row.get("ap")],
            num_steps=job.config.recipe.epochs * progress.batches_per_epoch,
            epochs=job.config.recipe.epochs,
            size_hw=job.config.recipe.train_size_hw,
            val_ap=progress.best_ap,
            train_ap=train_ap,
            num_objects=(_num_objects(sampled), _num_objects(val_data)),
            evaluations_since_best=progress.evaluations_since_best if job.should_stop_early else 0,
            num_shared=len(_files(val_data) & _files(job.train_data)),
            num_val=len(val_data),
            evaluation=read_record(job.folder / EVALUATION_FILE),
            folder=str(job.folder),
            same_run=_same_run(job),
            larger_model=_larger_model(job.config),
        )
    )
    if found is None:
        return None
    write_text(job.folder / OUTLOOK_FILE, json.dumps(found.to_json(), indent=1) + "\n", error=TrainingError)
    for advice in found.advice:
        say(advice.text)
        if advice.command is not None:
            say(f"  {advice.command}")
    return found


def sample_images(num_images: int, count: int, *, seed: int) -> np.ndarray:
    """Return the positions of up to `count` images, drawn without replacement, int64 (n,), ascending."""
    drawn = np.random.default_rng(seed).permutation(num_images)[:count]
    return np.sort(drawn)


def with_objects_of(dataset: DetectionDataset, indices: np.ndarray) -> DetectionDataset:
    """Return the same images with the objects of only some, so that only these images count for AP.

    Args:
        dataset: images with objects.
        indices: positions of the images that keep their objects, int64 (n,).
    """
    columns = dataset.annotations
    is_kept = np.zeros(len(dataset), dtype=bool)
    is_kept[indices] = True
    counts = np.diff(columns.starts)
    rows = np.repeat(is_kept, counts)
    kept = {name: getattr(columns, name)[rows] for name in ("boxes_xywh", "labels", "areas", "iscrowd")}
    starts = np.concatenate([[0], np.cumsum(np.where(is_kept, counts, 0))])
    chosen = copy.copy(dataset)
    chosen.annotations = columns._replace(starts=starts, **kept)
    return chosen


def _training_ap(job: Job, indices: np.ndarray) -> tuple[float | None, DetectionDataset]:
    """Return AP of the best weights on some training images, None without objects; and the data with their objects."""
    chosen = with_objects_of(job.train_data, indices)
    model = copy.deepcopy(job.state.ema.module)
    model.load_state_dict(averaged_entries(load_pickle(job.folder / BEST_FILE)))
    ap = job.detect(model, chosen, indices=indices.tolist()).summarize().ap
    return None if ap < 0 else ap, chosen


def _num_objects(dataset: DetectionDataset) -> int:
    return int((~dataset.annotations.iscrowd).sum())


def _files(dataset: DetectionDataset) -> set[str]:
    """The images of a dataset as absolute paths; rows of a table with the identity of the table."""
    names, ends = dataset.annotations.file_names.tolist(), [*(one.first for one in dataset.sources[1:]), len(dataset)]
    found: set[str] = set()
    for source, end in zip(dataset.sources, ends, strict=True):
        place = source.images.resolve() if isinstance(source.images, Path) else f"table {id(source.images)}"
        found |= {os.path.join(place, name) for name in names[source.first : end]}
    return found


def _same_run(job: Job) -> str | None:
    """Command line that repeats the run; None if its data was not given as paths."""
    config = job.config
    places = [*_as_tuple(config.data), *(_as_tuple(config.val_data) if config.val_data is not None else ())]
    if not all(Path(place).exists() for place in places):
        return None
    return f"rtdetr train -c {shlex.quote(str(job.folder / CONFIG_FILE))}"


def _larger_model(config: TrainConfig) -> str | None:
    """Command line that trains the next larger published model on the same data; None if there is none."""
    version, _, size = config.model.partition("_")
    others = (config.network, config.val_data, config.images, config.in_channels, config.teacher, config.unlabelled)
    if size not in _SIZES[:-1] or any(one is not None for one in others):
        return None
    if not all(Path(place).exists() for place in _as_tuple(config.data)):  # given as Python objects
        return None
    larger = f"{version}_{_SIZES[_SIZES.index(size) + 1]}"
    data = " ".join(shlex.quote(place) for place in _as_tuple(config.data))
    start = "--model" if config.weights is None else "--weights"
    return f"rtdetr train {data} {start} {larger} --output {shlex.quote(f'{config.output_dir}-{larger}')}"


def _as_tuple(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value
