"""Models as files for other runtimes: `export` writes one, `ExportOptions` says how."""

from rtdetr.export.export import RefusedExportError, Source, export
from rtdetr.export.options import EngineOptions, ExportOptions, ExportResult

__all__ = ["EngineOptions", "ExportOptions", "ExportResult", "RefusedExportError", "Source", "export"]
