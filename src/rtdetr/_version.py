"""The version of this library, for every room."""

__version__ = "0.1.0"
