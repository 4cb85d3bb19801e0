"""Does what docs/extending.md says about a dataset format, with the code of the page."""

import re
import sys
from pathlib import Path

import pytest

import rtdetr.data
from rtdetr.data.formats import FORMATS
from rtdetr.errors import DatasetError
from tests.data.doctor_files import picture

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
ROWS = "a.jpg,10,8,40,32,cat\nb.jpg,40,20,72,60,dog\na.jpg,50,10,60,30,dog\n"


def blocks(section: str) -> list[str]:
    """The Python of a section of the page."""
    text = PAGE.read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The format of the page is in the table, and there is a dataset in it; gives the code that uses it."""
    reader, entry, use = blocks("Add a dataset format")
    (tmp_path / "csv_boxes.py").write_text(reader)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = dict(FORMATS)
    exec(entry.replace("rtdetr.data.csv_boxes", "csv_boxes"), {})
    folder = tmp_path / "boxes"
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate("abcd"):
        picture(number).save(folder / "images" / f"{name}.jpg")
    (folder / "train.csv").write_text("image,xmin,ymin,xmax,ymax,class\n" + ROWS)
    (folder / "val.csv").write_text("image,xmin,ymin,xmax,ymax,class\nc.jpg,1,2,30,40,cat\nd.jpg,5,5,50,50,dog\n")
    yield use
    FORMATS.clear()
    FORMATS.update(before)
    sys.modules.pop("csv_boxes", None)


def test_it_is_opened_and_checked_as_the_page_says(added, capsys):
    exec(added, {})
    shown = capsys.readouterr().out
    assert "2 images, 3 boxes, 2 classes" in shown and "csv" in shown
    dataset = rtdetr.data.open_dataset("boxes", split="train")
    assert dataset.categories.names == ["cat", "dog"]
    assert dataset.target(0)["boxes_xyxy"].tolist() == [[10, 8, 40, 32], [50, 10, 60, 30]]
    assert len(rtdetr.data.open_dataset("boxes/val.csv", split="val")) == 2
    assert rtdetr.data.check("boxes").sound


def test_errors_are_raised_by_training_and_shown_by_the_doctor(added, tmp_path):
    file = tmp_path / "boxes" / "train.csv"
    file.write_text(file.read_text() + "b.jpg,ten,20,72,60,cat\nb.jpg,30,20,20,60,cat\n")
    with pytest.raises(DatasetError, match=r"train\.csv:5: expected image,xmin"):
        rtdetr.data.open_dataset("boxes", split="train")
    report = rtdetr.data.check("boxes")
    assert {finding.kind: finding.count for finding in report.findings} == {"unreadable-entry": 1, "degenerate-box": 1}
    rtdetr.data.doctor.fix(report, tmp_path / "out", allow_loss=True)
    assert len(rtdetr.data.open_dataset(tmp_path / "out", split="train").annotations.labels) == 3


def test_it_is_trained_on(added, tmp_path):
    result = rtdetr.train(
        "boxes", model="test-tiny", epochs=1, batch_size=2, output_dir=tmp_path / "run", device="cpu", workers=0
    )
    assert (tmp_path / "run" / "last.pth").exists() and result is not None
