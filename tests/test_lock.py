"""The locked packages are complete, and nothing in their files is of one machine."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
LOCK = (REPOSITORY / "requirements" / "lock.txt").read_text()
TORCH = (REPOSITORY / "requirements" / "torch.txt").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def locked() -> dict[str, str]:
    """Name and version of every locked package that this Python on this platform gets."""
    lines = re.findall(r"^[a-z0-9][^\\\n]*", LOCK + TORCH, flags=re.MULTILINE)
    requirements = [Requirement(line) for line in lines]
    assert all(re.fullmatch(r"==[^*,]+", str(r.specifier)) for r in requirements)
    return {r.name: str(r.specifier)[2:] for r in requirements if r.marker is None or r.marker.evaluate()}


def wanted(lines: list[str], extra: str = "") -> list[Requirement]:
    requirements = map(Requirement, lines)
    return [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": extra})]


def test_every_direct_dependency_is_locked():
    extras = PROJECT["project"]["optional-dependencies"]
    lines, waiting, seen = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]], ["dev"], set()
    while waiting:
        seen.add(name := waiting.pop())
        for line in extras[name]:
            requirement = Requirement(line)
            waiting += requirement.extras - seen if requirement.name == "rtdetr" else ()
            lines += [line] if requirement.name != "rtdetr" else []
    versions = locked()
    missing = [r for r in wanted(lines) if not r.specifier.contains(versions.get(canonicalize_name(r.name), "0"))]
    assert len(lines) > 30 and not missing  # `make lock` adds them


def test_every_indirect_dependency_is_locked():
    """Read from the installed packages, so far as they have the locked versions."""
    versions, checked, missing = locked(), 0, []
    for distribution in importlib.metadata.distributions():
        name = canonicalize_name(distribution.name)
        if versions.get(name) != Version(distribution.version).public:
            continue
        for requirement in wanted(distribution.requires or []):
            checked += 1
            if not requirement.specifier.contains(versions.get(canonicalize_name(requirement.name), "0")):
                missing.append(f"{name}: {requirement}")
    assert checked and not missing


def test_hashes_and_places():
    blocks = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks) and "--hash" not in TORCH
    assert not re.search(r"^(torch|nvidia|cuda|triton)", LOCK, flags=re.MULTILINE)  # whose hashes depend on the index
    assert not re.search(r"://|(?<!-)-index|--find.links|@ file", LOCK + TORCH)
