"""Training of a model. Start reading at `train.py`, the loop; users call `rtdetr.train` in `api.py`."""

from rtdetr.training.checkpoint import read
from rtdetr.training.ema import ModelEMA
from rtdetr.training.job import MakeDetector
from rtdetr.training.optimizer import build_optimizer
from rtdetr.training.train import TrainResult, run

__all__ = ["MakeDetector", "ModelEMA", "TrainResult", "build_optimizer", "read", "run"]
