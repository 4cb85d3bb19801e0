"""Detectors: what runs a network on images. `load` picks one by the kind of file; all are called alike."""

from rtdetr.runtimes.load import load
from rtdetr.runtimes.telemetry import switch_off

switch_off()

__all__ = ["load"]
