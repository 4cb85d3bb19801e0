"""Networks only: no files, no logging, no downloads. Start reading at `rtdetr.py`."""

from rtdetr.models.fuse import fuse
from rtdetr.models.postprocess import postprocess
from rtdetr.models.rtdetr import RTDETR, build_model

__all__ = ["RTDETR", "build_model", "fuse", "postprocess"]
