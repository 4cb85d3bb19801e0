"""Common behavior of all errors."""

import pickle
import re
import tomllib
from pathlib import Path

import pytest

from rtdetr.errors import (
    EXTRAS,
    LOG_RECORDS_VARIABLE,
    OPTIONAL_PACKAGES,
    ConfigError,
    RTDETRError,
    is_first_report,
    one_line,
)
from rtdetr.export import RefusedExportError


@pytest.mark.parametrize("quoted", ["'{}'", '"{}"', "{}"])
def test_a_long_value_is_shortened_but_not_the_rest_of_the_message(quoted):
    value = quoted.format("a" * 5000 + "z")
    text = str(ConfigError(f"model: expected a name, got {value}. Run 'rtdetr models' for the list"))
    assert text.startswith(f"model: expected a name, got {value[:100]}")
    assert text.endswith(f"{value[-50:]}. Run 'rtdetr models' for the list")
    assert " ... " in text and len(text) < 400


def test_other_text_is_left_as_it_is():
    words = " ".join(["many words"] * 100)
    for text in (
        "short",
        f"the model's {words} and the dataset's {words}",
        f"Known: {', '.join(map(str, range(500)))}",
    ):
        assert str(RTDETRError(text)) == text
    listed = ", ".join(f"'{number}'" for number in range(300))
    assert str(RTDETRError(listed)) == listed


def test_errors_cross_processes():
    for error in (ConfigError("x" * 1000), RTDETRError()):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error)
    assert one_line(RefusedExportError("no", None)) == "ExportError: no"


def test_messages_of_another_process_are_not_repeated(tmp_path, monkeypatch) -> None:
    assert is_first_report("a") and is_first_report("a")  # alone
    monkeypatch.setenv(LOG_RECORDS_VARIABLE, str(tmp_path))
    assert [is_first_report(line) for line in ("a", "a", "b", "ä\udcff", "b")] == [True, False, True, True, False]
    monkeypatch.setenv(LOG_RECORDS_VARIABLE, str(tmp_path / "gone"))
    assert is_first_report("a") and is_first_report("a")


def test_the_packages_of_an_extra_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for extra, packages in EXTRAS.items():
        required = [re.split(r"[>=\[]", one)[0] for one in project["optional-dependencies"][extra]]
        assert packages.split() == sorted((one for one in required if one != "rtdetr"), key=packages.index)
    assert set(OPTIONAL_PACKAGES.values()) == set(EXTRAS)
