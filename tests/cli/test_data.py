"""`rtdetr data check`: what it prints and writes, and its exit status."""

import json

import pytest
from typer.testing import CliRunner

from rtdetr.cli.main import app
from rtdetr.data import open_dataset
from tests.data.doctor_files import clean, write


def run(*arguments):
    return CliRunner().invoke(app, ["data", "check", *map(str, arguments)])


@pytest.fixture
def broken(tmp_path):
    splits = clean()
    splits["train"]["annotations"][0]["bbox"][2] = 0
    return write(tmp_path / "set", splits)


def test_sound_data(tmp_path):
    result = run(write(tmp_path / "set"))
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("The data is sound.\n")


def test_notes_are_no_problem(tmp_path):
    splits = clean()
    splits["val"]["annotations"] = splits["val"]["annotations"][:2]
    result = run(write(tmp_path / "set", splits))
    assert result.exit_code == 0
    assert "images without objects: 1" in result.stdout


def test_problems_exit_with_status_1(broken):
    result = run(broken)
    assert result.exit_code == 1
    assert "boxes without width or height: 1" in result.stdout


def test_json(broken):
    result = run(broken, "--json", "--examples", 1)
    assert result.exit_code == 1
    assert [finding["kind"] for finding in json.loads(result.stdout)["findings"]] == ["degenerate-box"]


def test_page(broken, tmp_path):
    assert run(broken, "--html", tmp_path / "page.html").exit_code == 1
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")


def test_fix(broken, tmp_path):
    refused = run(broken, "--fix", tmp_path / "out")
    assert refused.exit_code == 2
    assert "1 of 6 boxes (" in refused.stderr and "--allow-loss" in refused.stderr
    result = run(broken, "--fix", tmp_path / "out", "--allow-loss")
    assert result.exit_code == 0, result.output
    assert "Changes, listed in its changes.txt: 1" in result.stdout
    assert result.stdout.endswith("Result for the copy: The data is sound.\n")
    assert len(open_dataset(tmp_path / "out", split="train").annotations.labels) == 5
    again = run(broken, "--fix", tmp_path / "out")
    assert again.exit_code == 2
    assert "has content" in again.stderr


def test_an_unsound_copy_exits_with_status_1(broken, tmp_path):
    result = run(broken, "--fix", tmp_path / "out", "--allow-loss", "--queries", 1)
    assert result.exit_code == 1
    assert "Result for the copy: Found 1 kind of warning." in result.stdout


def test_sizes_and_queries(tmp_path):
    root = write(tmp_path / "set")
    assert "images stretched by more than a factor of 2: 5" in run(root, "--size", "640x320").stdout
    assert run(root, "--queries", 1).exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["{f}/none"], "DatasetError: no dataset"),
        (["{f}"], "DatasetError: "),
        (["{f}/set", "--size", "large"], "InputError: --size: expected a size like 640"),
        (["{f}/set", "--images", "{f}/none"], "DatasetError: expected a folder of images"),
        (["{f}/set", "{f}/set", "--images", "{f}/set"], "ConfigError: --images applies to one dataset only"),
    ],
)
def test_mistakes_are_reported_on_one_line(tmp_path, arguments, problem):
    write(tmp_path / "set")
    result = run(*(argument.format(f=tmp_path) for argument in arguments))
    assert result.exit_code == 2
    assert problem in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
