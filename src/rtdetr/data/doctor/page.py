"""The doctor's report as one HTML file with pictures, which needs no other file and no network."""

import base64
import io
from html import escape
from pathlib import Path

from PIL import Image

from rtdetr.data.doctor.findings import KINDS, Example, Finding
from rtdetr.data.doctor.pictures import pictures
from rtdetr.data.doctor.report import Report
from rtdetr.errors import DatasetError
from rtdetr.files import write_atomically

_STYLE = """
:root { --ink: #1c2330; --soft: #667085; --line: #e4e7ec; --error: #c4203b; --warning: #b76e00; --note: #3b6fb5; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f6f8; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 2px; }
h2 { font-size: 18px; margin: 0; }
h3 { font-size: 13px; margin: 34px 0 8px; text-transform: uppercase; letter-spacing: .06em; color: var(--soft); }
.path, .soft { color: var(--soft); }
.path { overflow-wrap: anywhere; }
.verdict { display: inline-block; margin: 14px 0 0; padding: 6px 14px; border-radius: 999px; color: #fff;
  font-weight: 600; }
.sound { background: #1f8a53; }
.unsound { background: var(--error); }
.card { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px; margin: 14px 0; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 13px; }
td, th { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; width: 90px; }
td.from { overflow-wrap: anywhere; font-size: 13px; color: var(--soft); }
.bar { height: 10px; border-radius: 5px; background: #4c7fd0; min-width: 2px; }
.bars { width: 26%; }
.pill { display: inline-block; padding: 1px 9px; border-radius: 999px; color: #fff; font-size: 12px;
  font-weight: 600; }
.pill.error { background: var(--error); }
.pill.warning { background: var(--warning); }
.pill.note { background: var(--note); }
.card.error { border-left: 5px solid var(--error); }
.card.warning { border-left: 5px solid var(--warning); }
.card.note { border-left: 5px solid var(--note); }
.head { display: flex; gap: 10px; align-items: baseline; flex-wrap: wrap; }
.count { margin-left: auto; font-weight: 600; }
.remedy { margin: 6px 0 0; }
.index { columns: 2; padding: 0; margin: 0; list-style: none; }
.index li { padding: 2px 0; }
.index a { color: inherit; text-decoration: none; }
.index a:hover { text-decoration: underline; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(232px, 1fr)); gap: 14px;
  margin-top: 14px; }
.example { border: 1px solid var(--line); border-radius: 8px; overflow: hidden; font-size: 13px;
  background: #fcfcfd; }
.example.wide { grid-column: span 2; }
.shots { display: flex; background: #eceef2; }
.shots figure { margin: 0; flex: 1; min-width: 0; text-align: center; }
.shots img { display: block; margin: 0 auto; max-width: 100%; height: 176px; object-fit: contain; }
figcaption { font-size: 12px; color: var(--soft); padding: 2px 4px; overflow-wrap: anywhere; }
.words { padding: 8px 10px; overflow-wrap: anywhere; }
.words b { font-weight: 600; }
.alone { grid-column: 1 / -1; padding: 2px 0; font-size: 14px; }
@media (max-width: 640px) { .index { columns: 1; } .example.wide { grid-column: auto; } .bars { display: none; } }
"""


def save_page(report: Report, file: Path) -> Path:
    """Write the page.

    Raises:
        DatasetError: the file cannot be written, or exists and is no page by its name.
    """
    refuse_other_files(file)
    page = _page(report).encode("utf-8", errors="replace")  # a file name may hold bytes that are no text
    return write_atomically(file, lambda path: path.write_bytes(page), error=DatasetError)


def refuse_other_files(file: Path) -> None:
    """See that the page would not replace an annotation file, say.

    Raises:
        DatasetError: it would.
    """
    if file.is_file() and file.suffix.lower() not in (".html", ".htm"):
        raise DatasetError(f"expected a new file or NAME.html for the page, {file} exists: choose another")


def _page(report: Report) -> str:
    data = escape(", ".join(map(str, report.data)))
    body = [
        f"<h1>Data check</h1><div class=path>{data}</div>",
        f"<div class='verdict {'sound' if report.sound else 'unsound'}'>{escape(report.verdict())}</div>",
        f"<h3>Splits</h3><div class=card>{_splits(report)}</div>",
    ]
    if report.findings:
        body.append(f"<h3>Findings</h3><div class=card><ul class=index>{_index(report)}</ul></div>")
    body.append(f"<h3>Classes</h3><div class=card>{_classes(report)}</div>")
    if report.findings:
        body.append("<h3>In detail</h3>")
        body.append("<div class=soft>The box meant is red, the other boxes of the image are yellow.</div>")
    body += [_finding(report, finding) for finding in report.findings]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>Data check: {data}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _splits(report: Report) -> str:
    heads = (
        "<th>split<th class=number>images<th class=number>empty<th class=number>objects<th class=number>classes<th>from"
    )
    rows = [
        f"<tr><td><b>{escape(row.name)}</b>{_numbers([row.images, row.empty, row.objects, row.classes])}"
        f"<td class=from>{escape(row.source)} ({row.format})"
        for row in report.splits
    ]
    return f"<table><tr>{heads}{''.join(rows)}</table>"


def _index(report: Report) -> str:
    return "".join(
        f"<li><a href='#{one.kind}'><span class='pill {one.severity}'>{one.count:,}</span> {escape(one.title)}</a></li>"
        for one in report.findings
    )


def _classes(report: Report) -> str:
    names = [escape(split.name) for split in report.splits]
    heads = "".join(f"<th class=number>{name} objects<th class=number>images<th class=bars>" for name in names)
    most = [max((row.objects[i] for row in report.classes), default=0) or 1 for i in range(len(names))]
    rows = []
    for row in report.classes:
        cells = "".join(
            f"{_numbers([objects, images])}<td class=bars>{_bar(objects / top)}"
            for objects, images, top in zip(row.objects, row.images, most, strict=True)
        )
        rows.append(f"<tr><td>{escape(row.name)}{cells}")
    return f"<table><tr><th>class{heads}{''.join(rows)}</table>"


def _bar(share: float) -> str:
    return f"<div class=bar style='width:{100 * share:.1f}%'></div>" if share else ""


def _numbers(values: list[int]) -> str:
    return "".join(f"<td class=number>{value:,}" for value in values)


def _finding(report: Report, finding: Finding) -> str:
    fixed = KINDS[finding.kind].fixed
    fix = f" <span class=soft>With --fix: {escape(fixed)}.</span>" if fixed else ""
    more = finding.count - len(finding.examples)
    return (
        f"<section class='card {finding.severity}' id='{finding.kind}'><div class=head>"
        f"<span class='pill {finding.severity}'>{finding.severity}</span><h2>{escape(finding.title)}</h2>"
        f"<span class=count>{finding.count:,}</span></div><p class=remedy>{escape(finding.remedy)}{fix}</p>"
        f"<div class=examples>{''.join(_example(report, one) for one in finding.examples)}</div>"
        + (f"<p class=soft>and {more:,} more</p>" if more else "")
        + "</section>"
    )


def _example(report: Report, example: Example) -> str:
    shown = pictures(report.survey, example)
    where = " ".join(text for text in (example.file, example.annotation) if text)
    words = f"<b>{escape(where)}</b> <span class=soft>in {escape(example.part)}</span><br>{escape(example.detail)}"
    if not shown:
        return f"<div class='words alone'>{words}</div>"
    shots = "".join(
        f"<figure><img src='{_data_address(one.image)}' alt=''><figcaption>{escape(one.caption)}</figcaption></figure>"
        for one in shown
    )
    wide = " wide" if len(shown) > 1 else ""
    return f"<div class='example{wide}'><div class=shots>{shots}</div><div class=words>{words}</div></div>"


def _data_address(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
