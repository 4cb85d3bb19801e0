"""Datasets, augmentation and batches."""

from rtdetr.data.coco import DetectionDataset, ImageTarget
from rtdetr.data.loader import TrainLoader
from rtdetr.data.open import open_dataset

__all__ = ["DetectionDataset", "ImageTarget", "TrainLoader", "open_dataset"]
