"""Merge keys mean what their specification says, with every release of PyYAML and in every file that is read."""

from pathlib import Path

import pytest
import yaml

from rtdetr.data.yolo_files import find_yolo
from rtdetr.yaml_files import read_yaml
from rtdetr.yaml_loaders import TextLoader, ValuesLoader

BASES = """
small: &small {side: 320, batch: 8}
large: &large {side: 640, steps: 2, "1": text}
nested: &nested {<<: *small, batch: 4}
wide: &wide {<<: [*nested, *large], color: red}
"""


@pytest.mark.parametrize("loader", [ValuesLoader, TextLoader])
@pytest.mark.parametrize(
    ("mapping", "value"),
    [
        ("{<<: *small}", {"side": 320, "batch": 8}),
        ("{<<: *small, side: 1}", {"side": 1, "batch": 8}),
        ("{side: 1, <<: *small}", {"side": 1, "batch": 8}),
        ("{<<: *nested}", {"side": 320, "batch": 4}),
        ("{<<: *nested, side: 1}", {"side": 1, "batch": 4}),
        ("{<<: [*small, *large]}", {"side": 320, "batch": 8, "steps": 2, "1": "text"}),
        ("{<<: [*large, *small]}", {"side": 640, "batch": 8, "steps": 2, "1": "text"}),
        ("{<<: [*nested, *small]}", {"side": 320, "batch": 4}),
        ("{<<: [*small, *nested]}", {"side": 320, "batch": 8}),
        ("{<<: [*small, *small], batch: 1}", {"side": 320, "batch": 1}),
        ("{<<: *wide}", {"side": 320, "batch": 4, "steps": 2, "1": "text", "color": "red"}),
        ("{<<: [*large, *wide], color: blue}", {"side": 640, "batch": 4, "steps": 2, "1": "text", "color": "blue"}),
        ("{<<: {side: 3, inner: {<<: *small, side: 4}}}", {"side": 3, "inner": {"side": 4, "batch": 8}}),
        ("{<<: []}", {}),
        ('{"<<": 1}', {"<<": 1}),
    ],
)
def test_merge_keys(loader, mapping, value):
    def as_text(part):
        return {key: as_text(one) for key, one in part.items()} if isinstance(part, dict) else str(part)

    found = yaml.load(BASES + f"found: {mapping}", Loader=loader)
    assert found["found"] == (value if loader is ValuesLoader else as_text(value))
    assert found["small"] == found["nested"] | {"batch": found["small"]["batch"]}  # the merged ones stay as they are


@pytest.mark.parametrize("loader", [ValuesLoader, TextLoader])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "duplicate key 'a'"),
        ("b: &b {x: 1}\nc: {<<: *b, <<: *b}", "duplicate key '<<'"),
        ("b: &b {<<: *b}", "a mapping that merges itself"),
        ("<<: 1", "a merge key with a value; expected a mapping or a list of mappings"),
        ("<<: [{a: 1}, [b]]", "a merge key with a list"),
        ("? [1]\n: 2", "a key that is not text"),
    ],
)
def test_invalid_merge_keys_are_refused(loader, text, message):
    with pytest.raises(yaml.YAMLError, match=message):
        yaml.load(text, Loader=loader)


def test_text_stays_text():
    text = "{no: off, 1: 1e-4, a: ~, b: =, c: !!int 3, d: 2001-01-01}"
    expected = {"no": "off", "1": "1e-4", "a": "~", "b": "=", "c": "3", "d": "2001-01-01"}
    assert yaml.load(text, Loader=TextLoader) == expected
    assert yaml.load("{no: off, 1e-4: ~, '=': 3, b: 3}", Loader=ValuesLoader) == {
        False: False,
        1e-4: None,
        "=": 3,
        "b": 3,
    }


def test_in_files(tmp_path: Path):
    common = "common: &common {0: cat, 1: dog}\nnames: {<<: *common, 1: no}\n"
    (tmp_path / "data.yaml").write_text(common + "base: &base {train: images}\n<<: *base\nval: images\n")
    for file in (tmp_path / "images" / "a.jpg", tmp_path / "labels" / "a.txt"):
        file.parent.mkdir()
        file.touch()
    found = find_yolo(tmp_path, ("train",))
    assert found is not None and [c.name for c in found.read().categories] == ["cat", "no"]
    assert read_yaml(tmp_path / "data.yaml")["names"] == {0: "cat", 1: False}
