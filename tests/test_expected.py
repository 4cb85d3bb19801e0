"""The words for the values that a setting accepts."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from rtdetr.expected import any_of, expected_value, kind_of


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "a whole number"),
        (float | None, "a number"),
        (bool, "true or false"),
        (str | None, "text"),
        (Annotated[int, Field(gt=0)], "a whole number of at least 1"),
        (Annotated[int, Field(ge=0, le=4)] | Literal["a", "b"], "a whole number from 0 to 4, 'a' or 'b'"),
        (Annotated[float, Field(ge=0, lt=1)], "a number of at least 0 and less than 1"),
        (Annotated[int, Field(gt=0, le=2**53, multiple_of=32)], "a positive multiple of 32"),
        (tuple[int, ...], "a list, each a whole number"),
        (tuple[float, float], "a list of 2 values, each a number"),
        (dict[str, int], None),
    ],
)
def test_types_in_words(annotation: object, text: str | None) -> None:
    assert expected_value(annotation) == text


def test_the_largest_whole_number_is_named_only_where_it_is_exceeded() -> None:
    size = Annotated[int, Field(gt=0, le=2**53)]
    assert expected_value(size, got=-1) == "a whole number of at least 1"
    assert expected_value(size, got=2**60) == f"a whole number from 1 to {2**53}"


def test_values_in_words() -> None:
    kinds = [kind_of(value) for value in (None, "a", 1, 1.5, True, [1], {"a": 1})]
    assert kinds == ["nothing", "text", "a whole number", "a number", "true or false", "a list", "'key: value' lines"]


def test_names() -> None:
    assert [any_of(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a or b", "a, b or c"]
