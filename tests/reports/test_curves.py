"""The plot of the learning curves, for any rows of metrics."""

import json

import numpy as np
import pytest
from PIL import Image

from rtdetr.reports.curves import _smooth, draw_learning_curve
from rtdetr.reports.metrics import row_of
from tests.training.records import epoch_record, step_record


def write(folder, records):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row_of(record)) + "\n" for record in records))


@pytest.mark.parametrize(
    "records",
    [
        [],
        [step_record(n) for n in range(1, 200)],
        [epoch_record(1, ap=None)],
        [epoch_record(1, loss=None, ap=-1.0)],
        [step_record(1), step_record(2), epoch_record(1)],
        [epoch_record(n, ap=0.01 * n if n % 5 == 0 else None) for n in range(1, 41)],
    ],
)
def test_the_curve_is_drawn_from_any_rows(tmp_path, records):
    write(tmp_path, records)
    draw_learning_curve(tmp_path)
    with Image.open(tmp_path / "learning_curve.png") as picture:
        assert picture.size == (1320, 840)
    assert not list(tmp_path.glob(".*"))


def test_smoothing_skips_gaps():
    values = np.where(np.arange(200) % 7 == 0, np.nan, 2.0)
    assert np.allclose(_smooth(values), 2.0)
    assert np.isnan(_smooth(np.full(200, np.nan))).all()
    assert _smooth(np.arange(5.0)).tolist() == [0, 1, 2, 3, 4]
