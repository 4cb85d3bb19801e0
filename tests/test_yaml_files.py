"""YAML files from untrusted sources: merged as documented, with the file of each value; at worst an error."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtdetr.errors import ConfigError
from rtdetr.yaml_files import parse_yaml, read_with_includes, read_yaml


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.yml").write_text(text)
    return folder / f"{next(iter(texts))}.yml"


def test_later_files_win_mappings_merge_and_lists_are_replaced(tmp_path):
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts", low="a: {x: 1, y: 2, l: [1, 2]}\nb: 1", high="__include__: [low.yml]\na: {y: 3}")
    main = write(tmp_path, main="__include__: [parts/low.yml, parts/high.yml]\na: {l: [9]}\nc: ~")
    found = read_with_includes(main)
    assert found.values == {"a": {"x": 1, "y": 3, "l": [9]}, "b": 1, "c": None}
    names = [found.origin(path).name for path in (("a", "x"), ("a", "y"), ("a", "l", "0"), ("b",), ("new",))]
    assert names == ["low.yml", "high.yml", "main.yml", "low.yml", "main.yml"]


def test_reading_twice_is_reading_once(tmp_path):
    main = write(tmp_path, main="__include__: [base.yml]\na: {x: 2}", base="a: &a {x: 1}\nb: *a")
    assert read_with_includes(main).values == {"a": {"x": 2}, "b": {"x": 1}}  # an alias is a copy
    assert read_with_includes(tmp_path / "base.yml").values == {"a": {"x": 1}, "b": {"x": 1}}


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("-2E5", -2e5), (".5e1", 5.0), ("1.5e3", 1500.0), ("e5", "e5"), ("12", 12)]
)
def test_numbers_with_an_exponent(text, value):
    assert parse_yaml(text) == value and type(parse_yaml(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"main.yml, line 3: not valid YAML: found duplicate key 'a'"),
        ("a: [1, 2", "main.yml, line 1: not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML: could not determine a constructor"),
        ("? [1]\n: 2", "found a key that is not text"),
        ("- 1", r"expected 'key: value' lines, got a list \[1\]"),
        ("just text", "main.yml: expected 'key: value' lines, got text 'just text'"),
        ("1: 2", "lines with text as keys, got the key a whole number 1"),
        ("__include__: base.yml", "__include__: expected a list of files, got text 'base.yml'"),
        ("__include__: [main.yml]", "the file includes itself"),
        ("__include__: [nowhere.yml]", r"cannot read the YAML file .*nowhere.yml: No such file"),
        ("a: &a [*a]", "more than 50 levels of nesting"),
        ("[" * 100 + "]" * 100, "more than 50 levels"),
        ("a: 2001-99-99", "not valid YAML"),
    ],
)
def test_broken_files_are_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_with_includes(write(tmp_path, main=text))
    assert "\n" not in str(caught.value)


def test_aliases_do_not_blow_up(tmp_path):
    bomb = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    with pytest.raises(ConfigError, match="more than 100000 values"):
        read_yaml(write(tmp_path, main=bomb))
    bomb = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))
    assert set(map(repr, read_yaml(write(tmp_path, main=bomb)).values())) == {"{'x': 1}"}
    chain = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: *a{i - 1}, k{i}: 1}}\n" for i in range(1, 500))
    with pytest.raises(ConfigError, match=r"line \d+: not valid YAML: found more than 100000 merged keys"):
        read_yaml(write(tmp_path, main=chain))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    (tmp_path / "base.yml").write_text(f"data: träume{end}train:{end}  epochs: 3{end}", encoding=encoding, newline="")
    (tmp_path / "main.yml").write_text(f"__include__: [base.yml]{end}lr: 1e-4{end}", encoding=encoding, newline="")
    values = read_with_includes(tmp_path / "main.yml").values
    assert values == {"data": "träume", "train": {"epochs": 3}, "lr": 1e-4}


def test_binary_files_and_folders(tmp_path):
    (tmp_path / "bytes.yml").write_bytes(b"a: \x80")
    with pytest.raises(
        ConfigError, match=r"bytes\.yml: expected text in UTF-8.*tried UTF-8, but byte 4 in line 1 is invalid"
    ):
        read_yaml(tmp_path / "bytes.yml")
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml(tmp_path)
    (tmp_path / "empty.yml").touch()
    assert read_yaml(tmp_path / "empty.yml") == {}
    (tmp_path / "large.yml").write_bytes(b"a" * 1_000_001)
    with pytest.raises(ConfigError, match="at most 1000000 bytes"):
        read_yaml(tmp_path / "large.yml")


PIECES = st.sampled_from(
    [*"[]{}:,-?!&*|>'\"%@`#\n\t ~<\\", "a", "1", "1e5", "&a", "*a", "<<", "!!binary", "!!set", ": ", "\x00"]
)


@given(st.lists(PIECES, max_size=30).map("".join) | st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_value_or_a_yaml_error(text):
    with contextlib.suppress(yaml.YAMLError):
        parse_yaml(text)


@given(st.binary(max_size=60))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_read_or_refused(tmp_path, content):
    (tmp_path / "any.yml").write_bytes(content)
    with contextlib.suppress(ConfigError):
        assert isinstance(read_yaml(tmp_path / "any.yml"), dict)
