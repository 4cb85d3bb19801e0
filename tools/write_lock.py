"""Write the lock files: requirements/lock.txt and torch.txt for `make test` and `make demo`, docs.txt for `make docs`.

python tools/write_lock.py UV    UV: path of the uv program

lock.txt and torch.txt together have all direct and indirect dependencies for all supported Python versions and
platforms.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[1] / "requirements"
OLDEST_PYTHON = "3.11"
PROJECT = ("--extra", "dev", "pyproject.toml", "requirements/lock.in")
# PyTorch and the CUDA libraries that only its default Linux wheels need
TORCH = re.compile(r"(torch|torchvision|triton|(nvidia|cuda)-[a-z0-9-]+)==")
LOCK_HEAD = """\
# Written by `make lock` from pyproject.toml and lock.in: everything but PyTorch, with hashes.
# Install it with --no-deps: a hash is demanded of each package that pip adds by itself.
"""
TORCH_HEAD = """\
# Written by `make lock` from pyproject.toml and lock.in: PyTorch and the CUDA libraries of its default Linux wheels.
# Used as constraints and without hashes, so that a CPU build (+cpu) from PyTorch's own index fits too: it has another
# hash and needs no CUDA library.
"""


DOCS_HEAD = "# Written by `make lock` from docs.in, with hashes.\n"


def resolve(uv: str, *sources: str) -> str:
    """Return requirements with the newest version of each package, its hashes and what requires it."""
    command = [uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header"]
    command += ["--python-version", OLDEST_PYTHON, *sources]
    index = os.environ.get("PIP_INDEX_URL")
    environment = os.environ | ({"UV_DEFAULT_INDEX": index} if index else {})
    return subprocess.run(
        command, check=True, env=environment, cwd=REQUIREMENTS.parent, stdout=subprocess.PIPE, text=True
    ).stdout


def main() -> None:
    """Write all lock files."""
    packages = re.split(r"^(?=[a-z0-9])", resolve(sys.argv[1], *PROJECT), flags=re.MULTILINE)[1:]
    locked = [package for package in packages if not TORCH.match(package)]
    constraints = [package for package in packages if TORCH.match(package)]
    without_hashes = [re.sub(r" \\\n +--hash=\S+", "", package) for package in constraints]
    (REQUIREMENTS / "lock.txt").write_text(LOCK_HEAD + "".join(locked))
    (REQUIREMENTS / "torch.txt").write_text(TORCH_HEAD + "".join(without_hashes))
    (REQUIREMENTS / "docs.txt").write_text(DOCS_HEAD + resolve(sys.argv[1], "requirements/docs.in"))


if __name__ == "__main__":
    main()
