"""The doctor's report: findings as values, as text and as JSON; `page.py` writes the page with images."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rtdetr.data.doctor.counts import ClassRow, SplitRow, count_classes, count_splits
from rtdetr.data.doctor.findings import KINDS, Finding, printable
from rtdetr.data.doctor.page import save_page
from rtdetr.data.doctor.survey import Survey
from rtdetr.wording import counted, plural, text_table
from rtdetr.yaml_files import YAML_SUFFIXES

_MAX_CLASSES = 100  # shown in the text; JSON and page have all


def is_whole(data: Iterable[Path]) -> bool:
    """Return whether these are datasets with all their splits, not single annotation files."""
    return any(path.is_dir() or path.suffix.lower() in YAML_SUFFIXES for path in data)


@dataclass
class Report:
    """The result of `check`.

    Attributes:
        data: the folders or files examined.
        survey: everything that was read; the input of `fix`.
        findings: one per kind of finding, errors first.
    """

    data: list[Path]
    survey: Survey = field(repr=False)
    findings: list[Finding]

    @property
    def is_whole(self) -> bool:
        """Whether all annotations of a dataset were read, not only single files."""
        return is_whole(self.data)

    @property
    def sound(self) -> bool:
        """Whether there are no errors and no warnings; notes do not count."""
        return all(finding.severity == "note" for finding in self.findings)

    @cached_property
    def splits(self) -> list[SplitRow]:
        """Counts of each split."""
        return count_splits(self.survey)

    @cached_property
    def classes(self) -> list[ClassRow]:
        """Counts of each class, in the order of the class lists."""
        return count_classes(self.survey)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        names = [part.name for part in self.survey.parts]
        return {
            "data": [str(path) for path in self.data],
            "sound": self.sound,
            "splits": [split._asdict() for split in self.splits],
            "classes": [
                {
                    "name": row.name,
                    "objects": dict(zip(names, row.objects, strict=True)),
                    "images": dict(zip(names, row.images, strict=True)),
                }
                for row in self.classes
            ],
            "findings": [finding.to_json() for finding in self.findings],
        }

    def text(self) -> str:
        """Return the report for a terminal."""
        splits = [[r.name, r.images, r.empty, r.objects, r.classes, r.format, r.source] for r in self.splits]
        blocks = [_table(["split", "images", "empty", "objects", "classes", "format", "from"], splits)]
        shown = self.classes[:_MAX_CLASSES]
        heads = [head for part in self.survey.parts for head in (f"{part.name} objects", f"{part.name} images")]
        cells = [[row.name, *(n for pair in zip(row.objects, row.images, strict=True) for n in pair)] for row in shown]
        if len(self.classes) > len(shown):
            cells.append([f"... {len(self.classes) - len(shown)} more", *[""] * len(heads)])
        blocks.append(_table(["class", *heads], cells))
        blocks += [_finding_text(finding) for finding in self.findings]
        return "\n\n".join([*blocks, self.verdict()])

    def verdict(self) -> str:
        """Return the result in one sentence."""
        counts = Counter(finding.severity for finding in self.findings)
        kinds = [
            f"{counted(counts[name], 'kind')} of {plural(name, counts[name])}"
            for name in ("error", "warning", "note")
            if counts[name]
        ]
        if self.sound:
            return f"The data is sound{f' ({kinds[0]})' if kinds else ''}."
        return f"Found {', '.join(kinds)}."

    def save_html(self, file: str | Path) -> Path:
        """Write a self-contained HTML page with images.

        Raises:
            DatasetError: the file cannot be written, or exists and is not named .html.
        """
        findings, verdict = self.findings, self.verdict()
        return save_page(
            Path(file), data=self.data, survey=self.survey, findings=findings, verdict=verdict, sound=self.sound
        )


def _finding_text(finding: Finding) -> str:
    lines = [f"{finding.severity.upper():8} {finding.title}: {finding.count}"]
    lines += [f"         {example.line()}" for example in finding.examples]
    if finding.count > len(finding.examples):
        lines.append(f"         ... {finding.count - len(finding.examples)} more")
    fixed = KINDS[finding.kind].fixed
    return "\n".join([*lines, f"      -> {finding.remedy}" + (f" --fix: {fixed}." if fixed else "")])


def _table(heads: list[str], rows: list[list[object]]) -> str:
    """Format columns, numbers aligned right."""
    cells = [heads, *([printable(str(cell)) for cell in row] for row in rows)]
    numeric = [all(isinstance(row[column], int) or row[column] == "" for row in rows) for column in range(len(heads))]
    return text_table(cells, right=numeric)
