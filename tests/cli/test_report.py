"""`rtdetr report`: rebuild the report of a run."""

import json

from typer.testing import CliRunner

from rtdetr.cli.main import app
from rtdetr.reports.metrics import row_of
from tests.training.records import epoch_record, step_record


def test_a_killed_run_gets_its_report(tmp_path):
    rows = [step_record(1), step_record(2), epoch_record(1)]
    text = "".join(json.dumps(row_of(row)) + "\n" for row in rows) + '{"kind": "step", "ite'
    (tmp_path / "metrics.jsonl").write_text(text)
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert (result.exit_code, result.stdout.strip()) == (0, str(tmp_path / "report.html"))
    assert "best AP, epoch 1" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "learning_curve.png").exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "expected the output folder of a training run, but it has no metrics.jsonl" in result.stderr
    assert not list(tmp_path.iterdir())
