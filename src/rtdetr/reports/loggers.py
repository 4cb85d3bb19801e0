"""Experiment trackers that a run can log to in addition to its own files: Weights & Biases and MLflow.

Each is imported only if it is used. Server, project and key are configured with the environment variables of the
tracker. The run's id at the tracker is stored in loggers.json, so that a resumed run continues there.
"""

import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from rtdetr.errors import ConfigError, RTDETRError, TrainingError, one_of, require_extra
from rtdetr.files import write_text
from rtdetr.reports.metrics import EpochRecord, MetricsSink, StepRecord, flat, row_of
from rtdetr.text_files import read_json

NAMES_FILE = "loggers.json"
_MLFLOW_LENGTH = 500  # maximum length of a parameter value in all versions of the server


def require(name: str) -> ModuleType:
    """Import and return the package of a tracker.

    Raises:
        ConfigError: the tracker is unknown.
        MissingDependencyError: its package is not installed; the message names the extra.
    """
    one_of("logger", name, sorted(LOGGERS))
    with require_extra():
        return importlib.import_module(name)


def open_logger(name: str, folder: Path, *, config: Mapping[str, Any]) -> MetricsSink:
    """Start or continue logging the run in `folder` to a tracker.

    Args:
        name: "wandb" or "mlflow".
        folder: folder of the run; its name is the name of the run.
        config: nested settings of the run, shown by the tracker.

    Raises:
        ConfigError, MissingDependencyError: as for `require`.
        TrainingError: the tracker rejects the run or cannot be reached.
    """
    package = require(name)
    try:
        return LOGGERS[name](package, folder, config=config)
    except RTDETRError:
        raise
    except Exception as error:  # each package has its own errors
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise TrainingError(f"cannot log to {name}: {reason}. Configure it, or train without --logger {name}") from None


class WandbSink:
    """Logs to Weights & Biases. WANDB_PROJECT (default "rtdetr"), WANDB_ENTITY and WANDB_MODE are respected.

    Charts use our own step counts, because those of W&B can only increase and a resumed run returns to its checkpoint.
    """

    def __init__(self, wandb: ModuleType, folder: Path, *, config: Mapping[str, Any]) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rtdetr"),
            name=folder.resolve().name,
            id=_names(folder).get("wandb"),
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )
        _store_run_id("wandb", folder, self._run.id)
        for kind, count in (("step", "iteration"), ("epoch", "epoch")):
            self._run.define_metric(f"{kind}/*", step_metric=f"{kind}/{count}")

    def step(self, record: StepRecord) -> None:
        """Log the means of the last steps."""
        self._run.log({f"step/{name}": value for name, value in _known(record).items()})

    def epoch(self, record: EpochRecord) -> None:
        """Log a finished epoch."""
        self._run.log({f"epoch/{name}": value for name, value in _known(record).items()})

    def close(self) -> None:
        """Send pending records."""
        self._run.finish()


class MlflowSink:
    """Logs to MLflow, to the active run if there is one. Its environment variables are respected.

    The experiment is MLFLOW_EXPERIMENT_NAME, or the default one of MLflow.
    """

    def __init__(self, mlflow: ModuleType, folder: Path, *, config: Mapping[str, Any]) -> None:
        self._mlflow = mlflow
        known = _names(folder).get("mlflow")
        self._is_ours = mlflow.active_run() is None
        if self._is_ours:
            mlflow.start_run(run_id=known, run_name=None if known else folder.resolve().name)
        self._id = mlflow.active_run().info.run_id
        if known is None:  # parameters can be logged only once
            parameters = {name: str(value)[:_MLFLOW_LENGTH] for name, value in _leaves(config).items()}
            mlflow.log_params(parameters)
            _store_run_id("mlflow", folder, self._id)

    def step(self, record: StepRecord) -> None:
        """Log the means of the last steps."""
        self._report("step", _known(record), record.iteration)

    def epoch(self, record: EpochRecord) -> None:
        """Log a finished epoch."""
        self._report("epoch", _known(record), record.epoch)

    def close(self) -> None:
        """End the run if it was started here."""
        if self._is_ours:
            self._mlflow.end_run()

    def _report(self, kind: str, values: Mapping[str, Any], step: int) -> None:
        self._mlflow.log_metrics({f"{kind}/{k}": v for k, v in values.items()}, step=step, run_id=self._id)


LOGGERS: dict[str, Callable[..., MetricsSink]] = {"wandb": WandbSink, "mlflow": MlflowSink}


def _known(record: StepRecord | EpochRecord) -> dict[str, Any]:
    return {name: value for name, value in flat(row_of(record)).items() if value is not None}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested values: {"recipe": {"lr": 1}} becomes {"recipe.lr": 1}."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _store_run_id(logger: str, folder: Path, name: str) -> None:
    text = json.dumps({**_names(folder), logger: name}, indent=1) + "\n"
    write_text(folder / NAMES_FILE, text, error=TrainingError)


def _names(folder: Path) -> dict[str, str]:
    try:
        names = read_json(folder / NAMES_FILE, what="record", error=ConfigError)
        return {logger: name for logger, name in names.items() if isinstance(name, str)}
    except (ValueError, AttributeError):  # includes ConfigError
        return {}
