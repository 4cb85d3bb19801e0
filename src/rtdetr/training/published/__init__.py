"""Reads the YAML files of the published implementation: its file in, our settings out. Start at `read.py`."""

from rtdetr.training.published.checkpoint import load_published
from rtdetr.training.published.read import Published, is_published, read_published

__all__ = ["Published", "is_published", "load_published", "read_published"]
