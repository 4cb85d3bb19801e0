"""Detectors run a network on images. `load` chooses one by the type of file; all have the same interface."""

from rtdetr.runtimes.load import load
from rtdetr.runtimes.telemetry import switch_off

switch_off()

__all__ = ["load"]
