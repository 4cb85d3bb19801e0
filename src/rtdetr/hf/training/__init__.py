"""Train the Hugging Face models with our recipes, using Trainer, Accelerate or your own loop.

`docs/huggingface_training.md` and `examples/hf_trainer.py` show how the parts fit together.
"""

from rtdetr.hf.training.average import AverageWeights
from rtdetr.hf.training.data import AugmentedDataset, EvaluationDataset, collate
from rtdetr.hf.training.metric import CocoMetric
from rtdetr.hf.training.optimizers import build_optimizers, training_arguments
from rtdetr.hf.training.schedule import AugmentationSchedule, batch_size_hw, resize_batch

__all__ = [
    "AugmentationSchedule",
    "AugmentedDataset",
    "AverageWeights",
    "CocoMetric",
    "EvaluationDataset",
    "batch_size_hw",
    "build_optimizers",
    "collate",
    "resize_batch",
    "training_arguments",
]
