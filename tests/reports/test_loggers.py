"""Experiment trackers: what is logged to them, checked with fake packages."""

import json
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest

from rtdetr.errors import ConfigError, MissingDependencyError, TrainingError
from rtdetr.reports.loggers import open_logger, require
from rtdetr.reports.sinks import MetricsWriter
from tests.training.records import epoch_record, step_record

CONFIG = {"model": "test-tiny", "recipe": {"lr": 0.1, "groups": []}}


class Wandb(ModuleType):
    """Remembers what it was asked for."""

    def __init__(self):
        super().__init__("wandb")
        self.started, self.logged, self.axes, self.finished = [], [], [], 0

    def init(self, **settings):
        self.started.append(settings)
        run = SimpleNamespace(id=settings["id"] or "abc123", log=self.logged.append, finish=self._finish)
        run.define_metric = lambda name, step_metric: self.axes.append((name, step_metric))
        return run

    def _finish(self):
        self.finished += 1


class Mlflow(ModuleType):
    """Remembers what it was asked for."""

    def __init__(self, *, active=None):
        super().__init__("mlflow")
        self.active, self.started, self.parameters, self.metrics, self.ended = active, [], [], [], 0

    def active_run(self):
        return self.active and SimpleNamespace(info=SimpleNamespace(run_id=self.active))

    def start_run(self, *, run_id, run_name):
        self.started.append((run_id, run_name))
        self.active = run_id or "new"

    def log_params(self, parameters):
        self.parameters.append(parameters)

    def log_metrics(self, values, *, step, run_id):
        self.metrics.append((values, step, run_id))

    def end_run(self):
        self.ended += 1
        self.active = None


def report(folder, name, *, config=CONFIG):
    sink = open_logger(name, folder, config=config)
    sink.step(step_record(2))
    sink.epoch(epoch_record(1))
    sink.close()


def test_wandb_gets_all_records_and_resumes_the_same_run(tmp_path, monkeypatch):
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    folder = tmp_path / "my run"
    folder.mkdir()
    report(folder, "wandb")
    report(folder, "wandb")
    first, second = wandb.started
    assert (first["project"], first["name"], first["id"], first["config"]) == ("rtdetr", "my run", None, CONFIG)
    assert (second["id"], second["resume"]) == ("abc123", "allow")
    step, epoch = wandb.logged[:2]
    assert (step["step/iteration"], step["step/loss"], step["step/loss_vfl"], step["step/lr_1"]) == (2, 3.0, 1.0, 1e-5)
    assert "step/gradient_norm" not in step
    assert (epoch["epoch/epoch"], epoch["epoch/ap"], epoch["epoch/ap50"]) == (1, 0.5, 0.8)
    assert "epoch/ap_small" not in epoch
    assert wandb.axes[:2] == [("step/*", "step/iteration"), ("epoch/*", "epoch/epoch")]
    assert wandb.finished == 2


def test_mlflow_gets_all_records_and_resumes_the_same_run(tmp_path, monkeypatch):
    mlflow = Mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    long = {**CONFIG, "data": "x" * 9999}
    report(tmp_path, "mlflow", config=long)
    report(tmp_path, "mlflow", config=long)
    assert mlflow.started == [(None, tmp_path.name), ("new", None)]
    expected = {"model": "test-tiny", "recipe.lr": "0.1", "recipe.groups": "[]", "data": "x" * 500}
    assert mlflow.parameters == [expected]
    (step, iteration, run), (epoch, number, _) = mlflow.metrics[:2]
    assert (iteration, number, run) == (2, 1, "new")
    assert (step["step/loss"], epoch["epoch/ap50"]) == (3.0, 0.8)
    assert mlflow.ended == 2
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"mlflow": "new"}


def test_an_active_mlflow_run_stays_open(tmp_path, monkeypatch):
    mlflow = Mlflow(active="theirs")
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    report(tmp_path, "mlflow")
    assert (mlflow.started, mlflow.ended) == ([], 0)
    assert {run for _, _, run in mlflow.metrics} == {"theirs"}


@pytest.mark.parametrize("text", ["", "[]", '{"wandb": 3}'])
def test_a_damaged_list_of_names_starts_a_new_run(tmp_path, monkeypatch, text):
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tmp_path / "loggers.json").write_text(text)
    report(tmp_path, "wandb")
    assert wandb.started[0]["id"] is None


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_not_installed(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=rf"'{name}' \(extra '{name}' of rtdetr\), .* pip install {name}$"):
        MetricsWriter(tmp_path, iteration=0, epoch=0, loggers=[name])
    assert not list(tmp_path.iterdir())


def test_an_unknown_logger():
    with pytest.raises(ConfigError, match=r"unknown logger 'wand'.*'wandb'"):
        require("wand")


def test_a_tracker_that_cannot_start_is_an_error_before_the_run(tmp_path, monkeypatch):
    wandb = Wandb()
    wandb.init = lambda **_: (_ for _ in ()).throw(ValueError("no API key\nconfigured"))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with pytest.raises(TrainingError, match="cannot log to wandb: ValueError: no API key configured"):
        open_logger("wandb", tmp_path, config={})


def test_a_tracker_that_fails_later_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    mlflow = Mlflow()
    mlflow.log_metrics = lambda *_, **__: 1 / 0
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    writer = MetricsWriter(tmp_path, iteration=0, epoch=0, loggers=["mlflow"], config=CONFIG)
    with caplog.at_level(logging.WARNING, logger="rtdetr"):
        for number in range(1, 6):
            writer.step(step_record(number))
    writer.close()
    assert len(caplog.records) == 3
    assert "Training continues without Mlflow" in caplog.text
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5
