"""A small dataset folder and a short run."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rtdetr.api import train
from rtdetr.config import TrainConfig
from rtdetr.data import DetectionDataset
from rtdetr.recipes.resolve import configure
from rtdetr.recipes.written import read_written
from rtdetr.reports.metrics import read_records
from rtdetr.training import TrainResult, setup
from rtdetr.training import train as loop
from tests.coco_files import many_images, write_dataset

TINY: dict[str, Any] = {"model": "test-tiny", "batch_size": 4, "precision": "float32", "device": "cpu", "workers": 0}
TINY |= {"log_every": 1, "recipe": "published", "set": {"train.warmup_iterations": 2, "train.lr": 1e-3}}
STEPS = 3  # an epoch of `run_tiny` on `write_folder`


def write_folder(root: Path, *, empty: bool = False) -> Path:
    """Write train and val in Roboflow's layout: 12 and 4 images, some of them without objects, or all of them."""
    for split, count, seed in (("train", 12, 0), ("valid", 4, 1)):
        content = many_images(count, seed=seed)
        if empty:
            content["annotations"] = []
        images, annotations = write_dataset(root / "parts" / split, content)
        (root / split).mkdir(parents=True)
        for image in images.iterdir():
            shutil.move(image, root / split / image.name)
        shutil.move(annotations, root / split / "_annotations.coco.json")
    return root


def run_tiny(data: Path | DetectionDataset | None, folder: Path | None = None, **settings: Any) -> TrainResult:
    """Train test-tiny for two epochs of three steps, if nothing else is asked for."""
    given = {} if "resume" in settings else {**TINY, "epochs": 2}
    output = {} if folder is None else {"output_dir": folder}
    return train(data, **output, **{**given, **settings})


def settings_of(data: Any, settings: Mapping[str, Any], **more: Any) -> TrainConfig:
    """The settings of a run as far as they are known without its data."""
    return configure(read_written(data, settings, **more))


@contextlib.contextmanager
def only_the_loop(*, outlook: bool = False) -> Iterator[None]:
    """Leave out drawing, counting memory and the outlook: they take longer than these runs, and have own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "estimate_memory", lambda *_, **__: "")
        patch.setattr(loop, "write_start", lambda folder, **_: None)
        patch.setattr(loop.EvaluationPages, "write", lambda self: None)
        if not outlook:
            patch.setattr(loop, "write_outlook", lambda job, **_: None)
        yield


def losses(folder: Path) -> list[tuple[int, float]]:
    """Iteration and total loss of each step."""
    return [(row["iteration"], row["loss"]) for row in read_records(folder) if row["kind"] == "step"]


def accuracies(folder: Path) -> list[list[float] | None]:
    """The twelve COCO numbers of each epoch."""
    return [row["ap"] for row in read_records(folder) if row["kind"] == "epoch"]


def measured(folder: Path) -> list[dict[str, Any]]:
    """Every row of metrics.jsonl without times and memory."""
    left_out = ("seconds", "images_per_second", "data_wait", "memory_gib", "cuda_memory_gib")
    return [{name: value for name, value in row.items() if name not in left_out} for row in read_records(folder)]


def config_of(folder: Path) -> dict[str, Any]:
    """The settings a run has saved."""
    return json.loads((folder / "config.json").read_text())
