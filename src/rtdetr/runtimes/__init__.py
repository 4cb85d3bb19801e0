"""Detectors: what runs a network on images. `load` picks one by the kind of file; all are called alike."""

from rtdetr.runtimes.load import load

__all__ = ["load"]
