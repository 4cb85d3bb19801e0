"""The code blocks of docs/extending.md, and a copy of the package to add them to."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def blocks(section: str) -> list[str]:
    """The code blocks of a section of the page."""
    page = (REPOSITORY / "docs" / "extending.md").read_text()
    text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"```(?:python|yaml)\n(.*?)```", text, flags=re.S)


class OwnCopy:
    """The package's source in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(REPOSITORY / "src" / "rtdetr", folder / "rtdetr", ignore=shutil.ignore_patterns("__pycache__"))

    def replace(self, file: str, old: str, new: str) -> None:
        """Change a file where it says `old`, which it must."""
        path = self.folder / "rtdetr" / file
        text = path.read_text()
        assert old in text, f"{file}: {old}"
        path.write_text(text.replace(old, new))

    def run(self, script: str) -> None:
        """Run a script with the copy."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
