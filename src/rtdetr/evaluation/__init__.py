"""Evaluate a detector on a dataset: COCO average precision, error types and confusion matrix, with plots and a page."""

from rtdetr.evaluation.coco import CocoEvaluator, CocoMetrics
from rtdetr.evaluation.evaluate import detect_dataset, evaluate_dataset
from rtdetr.evaluation.plots import save_plots
from rtdetr.evaluation.report import EvaluationReport
from rtdetr.evaluation.worst_images import draw_comparison, save_worst_images, worst_images

__all__ = [
    "CocoEvaluator",
    "CocoMetrics",
    "EvaluationReport",
    "detect_dataset",
    "draw_comparison",
    "evaluate_dataset",
    "save_plots",
    "save_worst_images",
    "worst_images",
]
