"""The doctor's report as a self-contained HTML file with images."""

from collections.abc import Sequence
from pathlib import Path

from rtdetr import html
from rtdetr.data.doctor.counts import count_classes, count_splits
from rtdetr.data.doctor.findings import KINDS, Example, Finding
from rtdetr.data.doctor.survey import Survey
from rtdetr.data.doctor.thumbnails import thumbnails
from rtdetr.errors import DatasetError
from rtdetr.html import Bar, Cell, Html, concatenate, element, note, table


def save_page(
    file: Path, *, data: Sequence[Path], survey: Survey, findings: Sequence[Finding], verdict: str, sound: bool
) -> Path:
    """Write the page.

    Args:
        file: NAME.html.
        data: the paths that were examined.
        survey: everything that was read.
        findings: one per kind of finding, errors first.
        verdict: the result in one sentence.
        sound: whether the result is good.

    Raises:
        DatasetError: the file cannot be written, or exists and is not named .html.
    """
    refuse_other_files(file)
    lead = concatenate(
        note(", ".join(map(str, data))),
        element("p", element("span", verdict, class_=f"verdict {'good' if sound else 'error'}")),
    )
    sections = {
        "Splits": _splits(survey),
        "Findings": _index(findings),
        "Classes": _classes(survey),
        "Details": _details(survey, findings),
    }
    return html.save_page(file, html.page("Data check", lead=lead, sections=sections), error=DatasetError)


def refuse_other_files(file: Path) -> None:
    """Check that the page does not replace, for example, an annotation file.

    Raises:
        DatasetError: the file exists and is not named .html.
    """
    if file.is_file() and file.suffix.lower() not in (".html", ".htm"):
        raise DatasetError(f"expected a new file or NAME.html for the page, but {file} exists; choose another name")


def _splits(survey: Survey) -> Html:
    rows = [
        (row.name, row.images, row.empty, row.objects, row.classes, f"{row.source} ({row.format})")
        for row in count_splits(survey)
    ]
    return table(("split", "images", "empty", "objects", "classes", "from"), rows, text_columns=("from",))


def _index(findings: Sequence[Finding]) -> Html:
    entries = []
    for finding in findings:
        pill = element("span", f"{finding.count:,}", class_=f"pill {finding.severity}")
        entries.append(element("li", element("a", pill, f" {finding.title}", href=f"#{finding.kind}")))
    return element("ul", *entries, class_="index") if entries else Html()


def _classes(survey: Survey) -> Html:
    rows = count_classes(survey)
    most = [max((row.objects[part] for row in rows), default=0) or 1 for part in range(len(survey.parts))]
    names: list[str] = ["class"]
    cells: list[list[Cell]] = [[row.name] for row in rows]
    for number, part in enumerate(survey.parts):
        names += [f"{part.name} objects", f"{part.name} images"]
        for row, line in zip(rows, cells, strict=True):
            line += [Bar(f"{row.objects[number]:,}", row.objects[number] / most[number]), row.images[number]]
    return table(names, cells)


def _details(survey: Survey, findings: Sequence[Finding]) -> Html:
    if not findings:
        return Html()
    return concatenate(
        note("The box of the finding is red; other boxes of the image are yellow."),
        *(_finding(survey, finding) for finding in findings),
    )


def _finding(survey: Survey, finding: Finding) -> Html:
    fixed, more = KINDS[finding.kind].fixed, finding.count - len(finding.examples)
    head = element(
        "div",
        element("span", finding.severity, class_=f"pill {finding.severity}"),
        element("h3", finding.title),
        element("span", f"{finding.count:,}", class_="count"),
        class_="head",
    )
    fix = element("span", f" With --fix: {fixed}.", class_="soft") if fixed else Html()
    examples = [_example(survey, example) for example in finding.examples]
    return element(
        "article",
        head,
        element("p", finding.remedy, fix),
        element("div", *examples, class_="examples"),
        note(f"and {more:,} more") if more else Html(),
        id=finding.kind,
        class_=finding.severity,
    )


def _example(survey: Survey, example: Example) -> Html:
    where = " ".join(text for text in (example.file, example.annotation) if text)
    words = element(
        "p",
        element("b", where),
        element("span", f" in {example.part}: ", class_="soft"),
        example.detail,
    )
    shown = thumbnails(survey, example)
    if not shown:
        return element("div", words, class_="example words")
    shots = [html.figure(html.photo(one.image, alt=one.caption or where), one.caption) for one in shown]
    pair = "example pair" if len(shown) > 1 else "example"
    return element("div", element("div", *shots, class_="shots"), words, class_=pair)
