"""Training settings: configuration files, named recipes, and the plan of a run. Start reading at `resolve.py`."""

from rtdetr.recipes.changes import change
from rtdetr.recipes.resolve import RunSettings, resolve
from rtdetr.recipes.schedule import lr_factor, set_learning_rate
from rtdetr.recipes.settings import TrainSettings

__all__ = ["RunSettings", "TrainSettings", "change", "lr_factor", "resolve", "set_learning_rate"]
