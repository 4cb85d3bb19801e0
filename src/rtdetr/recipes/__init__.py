"""What a model is trained with: settings, configuration files, named recipes, and the plan. Start at `settings.py`."""

from rtdetr.recipes.changes import adapt, override
from rtdetr.recipes.run_data import GivenData
from rtdetr.recipes.schedule import lr_factor, set_learning_rate
from rtdetr.recipes.settings import TrainSettings, resolve

__all__ = ["GivenData", "TrainSettings", "adapt", "lr_factor", "override", "resolve", "set_learning_rate"]
