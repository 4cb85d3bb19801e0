"""How a model is trained. Start reading at `train.py`, the loop; `rtdetr.train` in `api.py` is what users call."""

from rtdetr.training.checkpoint import read
from rtdetr.training.ema import ModelEMA
from rtdetr.training.job import MakeDetector
from rtdetr.training.optimizer import build_optimizer
from rtdetr.training.recipe import adapt, override
from rtdetr.training.run_data import GivenData
from rtdetr.training.schedule import lr_factor, set_learning_rate
from rtdetr.training.settings import TrainSettings, resolve
from rtdetr.training.train import TrainResult, run

__all__ = [
    "GivenData",
    "MakeDetector",
    "ModelEMA",
    "TrainResult",
    "TrainSettings",
    "adapt",
    "build_optimizer",
    "lr_factor",
    "override",
    "read",
    "resolve",
    "run",
    "set_learning_rate",
]
