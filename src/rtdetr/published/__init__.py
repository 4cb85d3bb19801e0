"""Reads the YAML files of the published implementation: its file in, our settings out. Start at `read.py`."""

from rtdetr.published.read import Published, describes_network, is_published, read_published, read_published_network

__all__ = ["Published", "describes_network", "is_published", "read_published", "read_published_network"]
