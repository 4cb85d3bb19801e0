"""Export of models to files for other runtimes: `export` writes one, `ExportOptions` configures it."""

from rtdetr.export.export import ExportResult, RefusedExportError, export
from rtdetr.export.job import Source, open_source
from rtdetr.export.options import EngineOptions, ExportOptions, Int8Options

__all__ = [
    "EngineOptions",
    "ExportOptions",
    "ExportResult",
    "Int8Options",
    "RefusedExportError",
    "Source",
    "export",
    "open_source",
]
