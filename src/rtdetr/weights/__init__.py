"""Weight files, both ways: download, read any published format, load strictly, transfer, save. Start at `load.py`."""

from rtdetr.weights.convert import convert
from rtdetr.weights.download import cache_dir, download
from rtdetr.weights.load import (
    LoadedWeights,
    build_from,
    default_categories,
    load_model,
    of_run,
    read_checkpoint,
    save_huggingface,
    save_weights,
)
from rtdetr.weights.official import metadata, read_own, store_thresholds
from rtdetr.weights.state import complete_state, load_state
from rtdetr.weights.transfer import TransferReport, load_backbone, transfer

__all__ = [
    "LoadedWeights",
    "TransferReport",
    "build_from",
    "cache_dir",
    "complete_state",
    "convert",
    "default_categories",
    "download",
    "load_backbone",
    "load_model",
    "load_state",
    "metadata",
    "of_run",
    "read_checkpoint",
    "read_own",
    "save_huggingface",
    "save_weights",
    "store_thresholds",
    "transfer",
]
