"""An exported file in the folder of its model: class names that were edited in config.json give a warning."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import rtdetr
from rtdetr.categories import COCO80
from rtdetr.runtimes.class_name_check import warn_other_names
from tests.runtimes.graphs import make_metadata, save_graph

NAMES = {"0": "bolt", "1": "nut", "2": "washer"}


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"id2label": NAMES}, None),
        ({"id2label": dict(reversed(NAMES.items()))}, None),
        ({"id2label": NAMES | {"1": "screw"}}, "has 'nut' for class 1, but config.json in the same folder has 'screw'"),
        (
            {"id2label": {"0": "bolt", "1": "nut"}},
            "has 'washer' for class 2, but config.json in the same folder has no name",
        ),
        ({"id2label": NAMES | {"3": "pin"}}, "has no name for class 3, but config.json in the same folder has 'pin'"),
        (
            {"rtdetr": {"categories": [{"id": 1, "name": "nut"}]}},
            "has 'bolt' for class 0, but config.json in the same folder has 'nut'",
        ),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, None),
        ({"id2label": {"a": "b"}}, None),  # of something else, as are these
        ({"model": "test-tiny"}, None),
        ([], None),
    ],
)
def test_different_class_names_are_reported(
    tmp_path: Path, stored: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "model.onnx"
    save_graph(file, make_metadata())
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with caplog.at_level(logging.WARNING):
        assert rtdetr.load(file).names == ("bolt", "nut", "washer")
    remedy = ". The names of the exported file are used; to rename classes, export the model again"
    assert caplog.messages == ([] if said is None else [f"{file} {said}{remedy}"])


def test_coco_classes_with_the_names_of_transformers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ["motorbike" if name == "motorcycle" else name for name in COCO80.names]
    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(enumerate(words))}))
    with caplog.at_level(logging.WARNING):
        warn_other_names(tmp_path / "model.xml", COCO80.names)
        assert not caplog.messages
        warn_other_names(tmp_path / "model.xml", COCO80.names[:79])
    assert "has no name for class 79, but config.json in the same folder has 'toothbrush'" in caplog.text
