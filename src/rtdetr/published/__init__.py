"""Read YAML files of the published implementation and convert them to our settings. Start at `read.py`."""

from rtdetr.published.read import Published, describes_network, is_published, read_published, read_published_network

__all__ = ["Published", "describes_network", "is_published", "read_published", "read_published_network"]
