"""Datasets, augmentation and batches."""

from rtdetr.data.dataset import DetectionDataset, ImageTarget
from rtdetr.data.doctor import check
from rtdetr.data.loader import TrainLoader
from rtdetr.data.open import open_dataset

__all__ = ["DetectionDataset", "ImageTarget", "TrainLoader", "check", "open_dataset"]
