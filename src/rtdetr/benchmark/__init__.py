"""Benchmark models and exported files on this machine side by side; results as a table, JSON and a chart."""

from rtdetr.benchmark.measure import STAGES, Measurement, Summary, measure
from rtdetr.benchmark.profile import Profile, engine_of, profile, profile_table
from rtdetr.benchmark.report import chart_kind, environment, save_chart, table, to_json

__all__ = [
    "STAGES",
    "Measurement",
    "Profile",
    "Summary",
    "chart_kind",
    "engine_of",
    "environment",
    "measure",
    "profile",
    "profile_table",
    "save_chart",
    "table",
    "to_json",
]
