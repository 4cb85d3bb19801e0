"""Datasets, augmentation and batches."""

from rtdetr.data.coco import CocoDataset, ImageTarget
from rtdetr.data.loader import TrainLoader
from rtdetr.data.open import open_dataset

__all__ = ["CocoDataset", "ImageTarget", "TrainLoader", "open_dataset"]
