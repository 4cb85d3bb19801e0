"""The report.html of an evaluation: its numbers, plots and worst images on one page.

`accuracy` and `plots` are also part of the report of a training run (`reports/page.py`). The page is built from files
that already exist: report.json, the plots and the images.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtdetr.errors import ConfigError, InputError
from rtdetr.evaluation.coco import CocoMetrics
from rtdetr.evaluation.plots import PLOTS
from rtdetr.evaluation.report import percent
from rtdetr.html import Bar, Html, cards, concatenate, figure_file, file_list, gallery, note, page, save_page, table
from rtdetr.text_files import read_json
from rtdetr.wording import counted

PAGE_FILE, REPORT_FILE, WORST_FOLDER = "report.html", "report.json", "worst_images"
SIDES = "Left: annotations, missed objects in amber. Right: detections, wrong ones in red with the kind of error."
_ERROR_NAMES = {"class": "wrong class", "both": "wrong class and location"}


def write_page(folder: Path) -> Path:
    """Write report.html from the files that `rtdetr evaluate --output` wrote to the folder.

    Raises:
        InputError: the page cannot be written.
    """
    report = read_record(folder / REPORT_FILE)
    metrics = report.get("metrics") or {}
    numbers = [_number(report, key, name) for key, name in (("ap", "AP"), ("ap50", "AP50")) if key in metrics]
    if report.get("seconds"):
        numbers.append((f"{report['num_images'] / report['seconds']:.1f}", "images/s"))
    subtitle = f"{counted(report.get('num_images', 0), 'image')} of {report.get('data', '')}"
    sections = {
        "Accuracy": accuracy(report),
        "Plots": plots(folder),
        "Worst images": worst_images(folder / WORST_FOLDER, folder),
        "Files": file_list(folder, without=PAGE_FILE),
    }
    title = f"Evaluation of {report.get('model', 'a model')}"
    text = page(title, lead=concatenate(note(subtitle), cards(numbers)), sections=sections)
    return save_page(folder / PAGE_FILE, text, error=InputError)


def _number(report: Mapping[str, Any], key: str, name: str) -> tuple[str, str]:
    """A headline number of the page, with its confidence interval."""
    interval = (report.get("confidence_95") or {}).get(key)
    between = f", 95 % confidence {percent(interval[0])} to {percent(interval[1])}" if interval else ""
    return f"{percent(report['metrics'][key])} %", name + between


def accuracy(evaluation: Mapping[str, Any]) -> Html:
    """Tables of the COCO numbers, classes and errors, from the result of `EvaluationReport.to_json`."""
    metrics, classes = evaluation.get("metrics") or {}, evaluation.get("classes") or []
    errors, empty = evaluation.get("errors") or {}, evaluation.get("false_positives_per_empty_image")
    parts = []
    if metrics:
        known = [name for name in CocoMetrics._fields[:12] if name in metrics]
        parts.append(table([_title(name) for name in known], [[percent(metrics[name]) for name in known]]))
        parts.append(note("COCO average precision (AP) and recall (AR) on the validation images, in percent."))
    if classes:
        columns = [name for name in classes[0] if name != "category_id"]
        ordered = sorted(classes, key=lambda row: -(row.get("ap") or 0))
        parts.append(
            table([_title(name) for name in columns], [[_cell(name, row[name]) for name in columns] for row in ordered])
        )
        parts.append(note("Precision, recall and F1 are at IoU 0.5 and the threshold with the best F1 of each class."))
    if errors:
        rows = [[_ERROR_NAMES.get(kind, kind), one["count"], percent(one["ap50_cost"])] for kind, one in errors.items()]
        parts.append(table(["error", "count", "AP50 lost"], rows))
    if empty is not None:
        parts.append(note(f"{empty:.3f} false positives per image without objects."))
    return concatenate(*parts)


def plots(folder: Path, page_folder: Path | None = None) -> Html:
    """Gallery of the plots in a folder, from `save_plots`; `page_folder` is the folder of the page, if different."""
    files = [(folder / name, caption) for name, caption in PLOTS.items()]
    return gallery([figure_file(path, page_folder or folder, caption=caption) for path, caption in files])


def worst_images(folder: Path, page_folder: Path) -> Html:
    """Gallery of the images that `save_worst_images` wrote to a folder."""
    found = []
    for path in sorted(folder.glob("*.jpg")):
        name = re.fullmatch(r"\d+_(-?\d+)", path.stem)
        found.append(figure_file(path, page_folder, caption=f"Image {name[1]}" if name else "", is_photo=True))
    return (
        concatenate(note(f"Images with the most and most confident errors first. {SIDES}"), gallery(found))
        if found
        else Html()
    )


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; empty if there is none."""
    try:
        values = read_json(path, what="record", error=ConfigError)
    except ValueError:  # includes ConfigError
        return {}
    return values if isinstance(values, dict) else {}


def _cell(column: str, value: Any) -> str | int | Bar:
    if column == "ap" and value is not None:
        return Bar(percent(value), value)
    if isinstance(value, float):
        return f"{value:.2f}" if column == "threshold" else percent(value)
    return "-" if value is None else value if isinstance(value, int) else str(value)


def _title(column: str) -> str:
    """Display name of a column: AP50 for ap50."""
    return "class" if column == "name" else re.sub(r"^(a[pr]|f1)", lambda m: m[0].upper(), column).replace("_", " ")
