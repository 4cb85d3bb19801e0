"""The training objective: matcher, classification losses and the criterion that applies them to every output."""

from rtdetr.losses.criterion import Criterion, build_criterion

__all__ = ["Criterion", "build_criterion"]
