"""Files for GitHub: workflows call existing make targets, and facts agree with pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import rtdetr

REPOSITORY = Path(__file__).parents[1]
WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def content(path: Path):
    # in YAML 1.1, `on` is true
    return yaml.safe_load(path.read_text().replace("\non:", "\n'on':"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_call_what_there_is(file):
    targets = re.search(r"\.PHONY: ([\w -]+)", (REPOSITORY / "Makefile").read_text())[1].split()
    workflow = content(file)
    assert workflow["on"] and workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        for value in ("oldest", "newest"):
            for command in (step.get("run", "").replace("${{ matrix.releases }}", value) for step in job["steps"]):
                assert set(re.findall(r"make ([\w-]+)", command)) <= set(targets)
                script = re.match(r"(\.?/?[\w./-]+)", command)
                assert not command.startswith(".ci") or (REPOSITORY / script[1]).is_file()


def test_every_supported_python_is_tested():
    jobs = content(REPOSITORY / ".github/workflows/ci.yml")["jobs"]
    steps = [
        step["with"]["python-version"] for step in jobs["all"]["steps"] if "python-version" in step.get("with", {})
    ]
    tested = [*steps, *jobs["pythons"]["strategy"]["matrix"]["python"]]
    pythons = [line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert tested == pythons


def test_citation_and_templates_can_be_read():
    citation = content(REPOSITORY / "CITATION.cff")
    assert citation["version"] == rtdetr.__version__ and citation["license"] == PROJECT["license"]
    papers = [citation["preferred-citation"], *citation["references"]]
    assert [paper["url"].rpartition("/")[2] for paper in papers] == ["2407.17140", "2304.08069", "2412.04234"]
    for form in (REPOSITORY / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        fields = content(form).get("body", [])
        assert all(field["attributes"]["label"] and field["id"] for field in fields)
    for hook in content(REPOSITORY / ".pre-commit-config.yaml")["repos"][0]["hooks"]:
        assert hook["language"] == "system" and hook["entry"].startswith(".venv/bin/")
