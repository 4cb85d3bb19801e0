"""Real-time detection transformers: RT-DETR and RT-DETRv2, exact, trainable and fast.

Start with `load` (detect), `train`, `evaluate` or `build_model`. Every public name is imported when it is first used:
`import rtdetr` itself is fast and needs no torch.
"""

import importlib
from typing import TYPE_CHECKING

from rtdetr._version import __version__ as __version__
from rtdetr.errors import RTDETRError as RTDETRError
from rtdetr.errors import require_extra

if TYPE_CHECKING:  # for editors and type checkers; a test keeps it equal to the tables below
    from rtdetr import boxes as boxes
    from rtdetr import comparison as comparison
    from rtdetr import config as config
    from rtdetr import data as data
    from rtdetr import evaluation as evaluation
    from rtdetr import export as export
    from rtdetr import images as images
    from rtdetr import losses as losses
    from rtdetr import models as models
    from rtdetr import preprocessing as preprocessing
    from rtdetr import recipes as recipes
    from rtdetr import reports as reports
    from rtdetr import runtimes as runtimes
    from rtdetr import structures as structures
    from rtdetr import training as training
    from rtdetr import weights as weights
    from rtdetr import zoo as zoo
    from rtdetr.api import evaluate as evaluate
    from rtdetr.api import train as train
    from rtdetr.categories import COCO80 as COCO80
    from rtdetr.categories import VOC20 as VOC20
    from rtdetr.categories import Categories as Categories
    from rtdetr.categories import Category as Category
    from rtdetr.comparison import compare as compare
    from rtdetr.config import ModelConfig as ModelConfig
    from rtdetr.config import Recipe as Recipe
    from rtdetr.detections import Detections as Detections
    from rtdetr.detections import Detector as Detector
    from rtdetr.models import build_model as build_model
    from rtdetr.runtimes import load as load
    from rtdetr.zoo import list_models as list_models

_MODULES = (
    *("boxes", "comparison", "config", "data", "evaluation", "export", "images", "losses", "models", "preprocessing"),
    *("recipes", "reports", "runtimes", "structures", "training", "weights", "zoo"),
)
_HOMES = {  # public name -> module that defines it
    "evaluate": "api",
    "train": "api",
    "COCO80": "categories",
    "VOC20": "categories",
    "Categories": "categories",
    "Category": "categories",
    "compare": "comparison",
    "ModelConfig": "config",
    "Recipe": "config",
    "Detections": "detections",
    "Detector": "detections",
    "build_model": "models",
    "load": "runtimes",
    "list_models": "zoo",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES and name not in _HOMES:
        raise AttributeError(f"module 'rtdetr' has no attribute {name!r}")
    with require_extra():
        if name in _MODULES:
            return importlib.import_module(f"rtdetr.{name}")
        value = getattr(importlib.import_module(f"rtdetr.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({"RTDETRError", "__version__", *_MODULES, *_HOMES})
