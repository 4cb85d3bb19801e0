"""Weight files: download, read all published formats, load strictly, transfer, save. Start at `load.py`."""

from rtdetr.files import cache_dir
from rtdetr.weights.convert import convert
from rtdetr.weights.download import download
from rtdetr.weights.load import (
    LoadedWeights,
    build_from,
    default_categories,
    load_model,
    read_checkpoint,
    save_huggingface,
    save_weights,
    weights_of_run,
)
from rtdetr.weights.official import metadata, read_own, store_thresholds
from rtdetr.weights.published import load_published
from rtdetr.weights.rows import drop_unused_rows, name_rows, select_rows
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
    "drop_unused_rows",
    "load_backbone",
    "load_model",
    "load_published",
    "load_state",
    "metadata",
    "name_rows",
    "read_checkpoint",
    "read_own",
    "save_huggingface",
    "save_weights",
    "select_rows",
    "store_thresholds",
    "transfer",
    "weights_of_run",
]
