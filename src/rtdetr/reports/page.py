"""report.html: everything in a run folder on one page that needs neither network nor JavaScript.

The page is made from the files in the folder alone, so it can be made again at any time. Pictures are part of it, so
that the one file can be passed on; each is linked with its original in the folder. Next file: `page_parts.py`.
"""

import datetime
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from rtdetr.errors import ConfigError, TrainingError
from rtdetr.evaluation.report import percent
from rtdetr.files import write_atomically
from rtdetr.reports.metrics import AP_NAMES, read_records
from rtdetr.reports.page_parts import (
    Bar,
    cards,
    figure,
    file_list,
    folded,
    gallery,
    note,
    settings,
    table,
)
from rtdetr.run_files import PLAN_FILE
from rtdetr.text_files import read_text
from rtdetr.wording import counted

PAGE_FILE, PICTURES_FOLDER = "report.html", "pictures"
PLOTS = {  # file -> what it shows
    "pr_curve": "Precision over recall, at IoU 0.5",
    "f1_curve": "F1 over the score threshold",
    "p_curve": "Precision over the score threshold",
    "r_curve": "Recall over the score threshold",
    "class_ap": "AP and AP50 of each class",
    "confusion_matrix": "What objects are taken for, at IoU 0.5 and the best F1 thresholds",
}
_SIDES = (
    "Left: the annotations, amber where missed. Right: what was found, red where wrong, with the kind of the error."
)
_MOST_EPOCHS = 500
_LATEST = 20  # rows of steps that the speed is the mean of
Rows = Sequence[Mapping[str, Any]]


def write_page(folder: Path) -> Path:
    """Write report.html from what the run folder holds.

    Raises:
        TrainingError: the page cannot be written.
    """
    text = build_page(folder)
    path = folder / PAGE_FILE
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), error=TrainingError)


def build_page(folder: Path) -> str:
    """Return the page of a run folder; parts that are not there are left out."""
    config, evaluation, labels = (
        _json(folder / f"{name}.json") for name in ("config", "evaluation", "label_statistics")
    )
    records = read_records(folder)
    epochs = [row for row in records if row["kind"] == "epoch"]
    sections = {
        "Learning": figure(folder / "learning_curve.png", folder) + _epoch_table(epochs),
        "Accuracy": _accuracy(evaluation),
        "Curves": gallery([figure(_picture(folder, name), folder, caption=text) for name, text in PLOTS.items()]),
        "Predictions": _photos(folder, "predictions_*.png", f"Images from all over the validation data. {_SIDES}"),
        "Worst images": _photos(folder, "worst_*.png", f"The most and the surest errors first. {_SIDES}"),
        "Training batches": _photos(folder, "batch_*.png", "What the network is shown, after augmentation."),
        "Labels": figure(folder / "label_statistics.png", folder),
        "Plan": _text(folder / PLAN_FILE),
        "Settings": settings(config),
        "Environment": settings(_json(folder / "environment.json")),
        "Files": file_list(folder, without=PAGE_FILE),
    }
    filled = {title: body for title, body in sections.items() if body}
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in filled)
    parts = [f'<section id="{_anchor(title)}"><h2>{title}</h2>\n{body}</section>' for title, body in filled.items()]
    numbers = [*_numbers_of_epochs(epochs), *_numbers_of_labels(labels), *_numbers_of_steps(records)]
    title = html.escape(f"{config.get('model', 'run')}: {folder.resolve().name}")
    style = resources.files("rtdetr.training").joinpath("page.css").read_text(encoding="utf-8")
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>",
            f"<header><h1>{title}</h1>{note(_subtitle(config, epochs))}<nav>{links}</nav>{cards(numbers)}</header>",
            "<main>",
            *parts,
            f"</main>\n<footer>Written by rtdetr, {now}.</footer>\n</body>\n</html>\n",
        ]
    )


def _subtitle(config: Mapping[str, Any], epochs: Rows) -> str:
    data, total = config.get("data", ""), (config.get("recipe") or {}).get("epochs")
    source = data if isinstance(data, str) else ", ".join(map(str, data))
    done = f"{len(epochs)} of {counted(total, 'epoch')}" if total else f"{counted(len(epochs), 'epoch')}"
    return f"{done}, trained on {source}" if source else done


def _numbers_of_epochs(epochs: Rows) -> list[tuple[str, str]]:
    """The numbers that one looks for first."""
    numbers = []
    evaluated = [row for row in epochs if row["ap"] and row["ap"][0] >= 0]
    if evaluated:
        best = max(evaluated, key=lambda row: row["ap"][0])
        numbers.append((f"{percent(best['ap'][0])} %", f"best AP, epoch {best['epoch']}"))
        numbers.append((f"{percent(best['ap'][1])} %", f"AP50, epoch {best['epoch']}"))
    if epochs:
        seconds = sum(row["seconds"] for row in epochs)
        numbers.append((str(datetime.timedelta(seconds=round(seconds))), "time spent training"))
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
    for name, text in (("cuda_memory_gib", "GPU memory"), ("memory_gib", "memory")):
        value = steps[-1].get(name)
        if value is not None:
            numbers.append((f"{value:.1f} GiB", text))
    return numbers


def _accuracy(evaluation: Mapping[str, Any]) -> str:
    """The twelve COCO numbers, a row a class, and the errors by kind."""
    metrics, classes = evaluation.get("metrics") or {}, evaluation.get("classes") or []
    errors, empty = evaluation.get("errors") or {}, evaluation.get("false_positives_per_empty_image")
    parts = []
    if metrics:
        known = [name for name in AP_NAMES if name in metrics]
        parts.append(table([_named(name) for name in known], [[percent(metrics[name]) for name in known]]))
        parts.append(note("COCO average precision and recall on the validation data, in percent."))
    if classes:
        ordered = sorted(classes, key=lambda row: -(row.get("ap") or 0))
        rows = [[_class_cell(name, value) for name, value in row.items()] for row in ordered]
        parts.append(table([_named(name) for name in classes[0]], rows))
        parts.append(
            note("Precision, recall and F1 at IoU 0.5 and the score threshold where the class has its best F1.")
        )
    if errors:
        rows = [[kind, f"{one['count']:,}", percent(one["ap50_cost"])] for kind, one in errors.items()]
        parts.append(table(["errors", "count", "cost in AP50"], rows))
    if empty is not None:
        parts.append(note(f"{empty:.3f} false positives in an image without objects."))
    return "\n".join(parts)


def _class_cell(column: str, value: Any) -> str | Bar:
    if column == "ap" and value is not None:
        return Bar(percent(value), value)
    if isinstance(value, float):
        return f"{value:.2f}" if column == "threshold" else percent(value)
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _epoch_table(epochs: Rows) -> str:
    rows = [
        [
            str(row["epoch"]),
            "-" if row["loss"] is None else f"{row['loss']:.3f}",
            *(percent(row["ap"][index]) if row["ap"] else "-" for index in range(3)),
            f"{row['seconds']:.0f}",
        ]
        for row in epochs[-_MOST_EPOCHS:]
    ]
    return folded("All epochs", table(["epoch", "loss", "AP", "AP50", "AP75", "seconds"], rows)) if rows else ""


def _photos(folder: Path, pattern: str, text: str) -> str:
    paths = sorted((folder / PICTURES_FOLDER).glob(pattern), key=_natural_order)
    found = gallery([figure(path, folder, caption=_caption(path), is_photo=True) for path in paths])
    return note(text) + found if found else ""


def _picture(folder: Path, name: str) -> Path:
    return folder / PICTURES_FOLDER / f"{name}.png"


def _caption(path: Path) -> str:
    batch = re.fullmatch(r"batch_epoch(\d+)_(\d+)", path.stem)
    if batch:
        return f"Epoch {batch[1]}, batch {batch[2]}"
    image = re.fullmatch(r"[a-z]+_\d+_image_(-?\d+)", path.stem)
    return f"Image {image[1]}" if image else ""


def _text(path: Path) -> str:
    return f"<pre>{html.escape(path.read_text(encoding='utf-8-sig', errors='replace'))}</pre>" if path.exists() else ""


def _json(path: Path) -> dict[str, Any]:
    """A file's object; empty where there is none."""
    try:
        values = json.loads(read_text(path, what="record", error=ConfigError))
    except ValueError:  # a ConfigError is one too
        return {}
    return values if isinstance(values, dict) else {}


def _natural_order(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.stem)]


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _named(column: str) -> str:
    """The name of a number as people write it: AP50 for ap50."""
    return re.sub(r"^(a[pr]|f1)", lambda match: match[0].upper(), column).replace("_", " ")
