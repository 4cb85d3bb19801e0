"""The report.html of a run: everything in the run folder on one page.

The page is built only from the files in the folder, so it can be rebuilt at any time. Images are embedded, so that the
file can be shared; each links to its original in the folder. HTML is generated in `html.py`.
"""

import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rtdetr.errors import TrainingError
from rtdetr.evaluation.page import SIDES, accuracy, plots, read_record
from rtdetr.evaluation.report import percent
from rtdetr.html import (
    Html,
    cards,
    collapsible,
    concatenate,
    element,
    figure_file,
    file_list,
    gallery,
    note,
    page,
    save_page,
    settings,
    table,
)
from rtdetr.reports.metrics import read_records
from rtdetr.reports.outlook import OUTLOOK_FILE
from rtdetr.run_files import PLAN_FILE
from rtdetr.wording import counted

PAGE_FILE, IMAGES_FOLDER = "report.html", "images"
_MAX_EPOCHS = 500
_LATEST = 20  # rows of steps that the speed is averaged over
Rows = Sequence[Mapping[str, Any]]


def write_page(folder: Path) -> Path:
    """Write report.html from the files in the run folder.

    Raises:
        TrainingError: the page cannot be written.
    """
    return save_page(folder / PAGE_FILE, build_page(folder), error=TrainingError)


def build_page(folder: Path) -> str:
    """Return the page of a run folder; sections without data are omitted."""
    config, evaluation, labels = (
        read_record(folder / f"{name}.json") for name in ("config", "evaluation", "label_statistics")
    )
    records = read_records(folder)
    epochs = [row for row in records if row["kind"] == "epoch"]
    sections = {
        "Outlook": _outlook(read_record(folder / OUTLOOK_FILE)),
        "Learning": concatenate(figure_file(folder / "learning_curve.png", folder), _epoch_table(epochs)),
        "Accuracy": accuracy(evaluation),
        "Plots": plots(folder / IMAGES_FOLDER, folder),
        "Predictions": _photos(folder, "predictions_*.png", f"Images from the whole validation data. {SIDES}"),
        "Worst images": _photos(
            folder, "worst_*.png", f"Images with the most and most confident errors first. {SIDES}"
        ),
        "Training batches": _photos(folder, "batch_*.png", "Input of the network, after augmentation."),
        "Labels": figure_file(folder / "label_statistics.png", folder),
        "Plan": _text(folder / PLAN_FILE),
        "Settings": settings(config),
        "Environment": settings(read_record(folder / "environment.json")),
        "Files": file_list(folder, without=PAGE_FILE),
    }
    numbers = [*_numbers_of_epochs(epochs), *_numbers_of_labels(labels), *_numbers_of_steps(records)]
    title = f"{config.get('model', 'run')}: {folder.resolve().name}"
    return page(title, lead=concatenate(note(_subtitle(config, epochs)), cards(numbers)), sections=sections)


def _outlook(values: Mapping[str, Any]) -> Html:
    """What would raise the AP, each sentence with the command to run."""
    parts = []
    for advice in values.get("advice") or []:
        parts.append(element("p", str(advice.get("text"))))
        if advice.get("command"):
            parts.append(element("pre", str(advice["command"])))
    return concatenate(*parts)


def _subtitle(config: Mapping[str, Any], epochs: Rows) -> str:
    data, total = config.get("data", ""), (config.get("recipe") or {}).get("epochs")
    source = data if isinstance(data, str) else ", ".join(map(str, data))
    done = f"{len(epochs)} of {counted(total, 'epoch')}" if total else f"{counted(len(epochs), 'epoch')}"
    return f"{done}, trained on {source}" if source else done


def _numbers_of_epochs(epochs: Rows) -> list[tuple[str, str]]:
    """The headline numbers: best AP and training time."""
    numbers = []
    evaluated = [row for row in epochs if row["ap"] and row["ap"][0] >= 0]
    if evaluated:
        best = max(evaluated, key=lambda row: row["ap"][0])
        numbers.append((f"{percent(best['ap'][0])} %", f"best AP, epoch {best['epoch']}"))
        numbers.append((f"{percent(best['ap'][1])} %", f"AP50, epoch {best['epoch']}"))
    if epochs:
        seconds = sum(row["seconds"] for row in epochs)
        numbers.append((str(datetime.timedelta(seconds=round(seconds))), "training time"))
    return numbers


def _numbers_of_labels(labels: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"{part['images']:,}", f"{split} images, {counted(part['objects'], 'object')}")
        for split, part in labels.items()
    ]


def _numbers_of_steps(records: Rows) -> list[tuple[str, str]]:
    steps = [row for row in records if row["kind"] == "step"][-_LATEST:]
    if not steps:
        return []
    rate, wait = (sum(row[name] for row in steps) / len(steps) for name in ("images_per_second", "data_wait"))
    numbers = [(f"{rate:.1f}", f"images/s, data wait {wait:.0%}")]
    for name, text in (("cuda_memory_gib", "device memory"), ("memory_gib", "process memory")):
        value = steps[-1].get(name)
        if value is not None:
            numbers.append((f"{value:.1f} GiB", text))
    return numbers


def _epoch_table(epochs: Rows) -> Html:
    rows = [
        [
            str(row["epoch"]),
            "-" if row["loss"] is None else f"{row['loss']:.3f}",
            *(percent(row["ap"][index]) if row["ap"] else "-" for index in range(3)),
            f"{row['seconds']:.0f}",
        ]
        for row in epochs[-_MAX_EPOCHS:]
    ]
    return (
        collapsible("All epochs", table(["epoch", "loss", "AP", "AP50", "AP75", "seconds"], rows)) if rows else Html()
    )


def _photos(folder: Path, pattern: str, text: str) -> Html:
    paths = sorted((folder / IMAGES_FOLDER).glob(pattern), key=_natural_order)
    found = gallery([figure_file(path, folder, caption=_caption(path), is_photo=True) for path in paths])
    return concatenate(note(text), found) if found else Html()


def _caption(path: Path) -> str:
    batch = re.fullmatch(r"batch_epoch(\d+)_(\d+)", path.stem)
    if batch:
        return f"Epoch {batch[1]}, batch {batch[2]}"
    image = re.fullmatch(r"[a-z]+_\d+_image_(-?\d+)", path.stem)
    return f"Image {image[1]}" if image else ""


def _text(path: Path) -> Html:
    return element("pre", path.read_text(encoding="utf-8-sig", errors="replace")) if path.exists() else Html()


def _natural_order(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.stem)]
