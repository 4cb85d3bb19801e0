"""Comparing recipes on a dataset: the same steps and seeds for each, and a table. Start reading at `runs.py`."""

from rtdetr.comparison.results import Comparison, Evaluation
from rtdetr.comparison.runs import compare

__all__ = ["Comparison", "Evaluation", "compare"]
