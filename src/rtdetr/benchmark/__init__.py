"""Benchmark models and exported files on this machine side by side; results as a table, JSON and a chart."""

from rtdetr.benchmark.measure import STAGES, Measurement, Summary, measure
from rtdetr.benchmark.profile import Profile, engine_of, profile, profile_table
from rtdetr.benchmark.report import chart_kind, environment, save_chart, table, to_json
from rtdetr.benchmark.throughput import Throughput, check_has_streams, measure_throughput, save_best, throughput_table

__all__ = [
    "STAGES",
    "Measurement",
    "Profile",
    "Summary",
    "Throughput",
    "chart_kind",
    "check_has_streams",
    "engine_of",
    "environment",
    "measure",
    "measure_throughput",
    "profile",
    "profile_table",
    "save_best",
    "save_chart",
    "table",
    "throughput_table",
    "to_json",
]
