"""The data doctor: finds what would stop training or degrade its result, and writes a cleaned copy of the dataset.

`check(DATA)` returns a `Report`; `fix(report, OUT)` writes the copy. `rtdetr data check` does both on the command line.
`find.py` and the readers fill `records.py`, `images.py` examines the image files, `survey.py` holds both, the checks
add to `findings.py`, `report.py` and `page.py` show the findings, and `fix.py` acts on them.
"""

from rtdetr.data.doctor.check import check
from rtdetr.data.doctor.findings import Example, Finding
from rtdetr.data.doctor.fix import Change, fix
from rtdetr.data.doctor.report import Report

__all__ = ["Change", "Example", "Finding", "Report", "check", "fix"]
