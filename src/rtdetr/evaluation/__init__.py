"""COCO average precision of a detector on a dataset."""

from rtdetr.evaluation.coco import CocoEvaluator, CocoMetrics
from rtdetr.evaluation.evaluate import evaluate_dataset
from rtdetr.evaluation.report import EvaluationReport

__all__ = ["CocoEvaluator", "CocoMetrics", "EvaluationReport", "evaluate_dataset"]
