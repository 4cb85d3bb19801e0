"""The data doctor: what in a data set would stop training or spoil its result, and a cleaned copy without it.

`check(DATA)` gives a `Report`; `fix(report, OUT)` writes the copy. `rtdetr data check` is both on the command line.
How it goes: `find.py` and the readers fill `records.py`, `images.py` looks at the image files, `survey.py` holds both,
the checks add to `findings.py`, `report.py` and `page.py` show them, `fix.py` acts on them.
"""

from rtdetr.data.doctor.check import check
from rtdetr.data.doctor.findings import Example, Finding
from rtdetr.data.doctor.fix import Change, fix
from rtdetr.data.doctor.report import Report

__all__ = ["Change", "Example", "Finding", "Report", "check", "fix"]
