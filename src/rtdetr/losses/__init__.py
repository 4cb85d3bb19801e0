"""The training objective: matcher, classification losses and the criterion that applies them to every output."""

from rtdetr.losses.criterion import Criterion, build_criterion
from rtdetr.losses.distillation import Distillation
from rtdetr.losses.matcher import HungarianMatcher, Match, Matcher

__all__ = ["Criterion", "Distillation", "HungarianMatcher", "Match", "Matcher", "build_criterion"]
