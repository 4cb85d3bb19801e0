"""What all errors have in common."""

import pickle
import re
import tomllib
from pathlib import Path

import pytest

from rtdetr.errors import EXTRAS, OPTIONAL_PACKAGES, SAID_IN, ConfigError, RTDETRError, is_news, one_line
from rtdetr.export import RefusedExportError


@pytest.mark.parametrize("quoted", ["'{}'", '"{}"', "{}"])
def test_a_long_value_is_cut_and_what_was_expected_stays(quoted):
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


def test_what_another_process_has_said_is_no_news(tmp_path, monkeypatch) -> None:
    assert is_news("a") and is_news("a")  # alone
    monkeypatch.setenv(SAID_IN, str(tmp_path))
    assert [is_news(line) for line in ("a", "a", "b", "ä\udcff", "b")] == [True, False, True, True, False]
    monkeypatch.setenv(SAID_IN, str(tmp_path / "gone"))
    assert is_news("a") and is_news("a")


def test_the_packages_of_an_extra_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for extra, packages in EXTRAS.items():
        required = [re.split(r"[>=\[]", one)[0] for one in project["optional-dependencies"][extra]]
        assert packages.split() == sorted((one for one in required if one != "rtdetr"), key=packages.index)
    assert set(OPTIONAL_PACKAGES.values()) == set(EXTRAS)
