"""ONNX: the network as a graph of operators."""

from rtdetr.export.onnx.export import build_onnx, export_onnx

__all__ = ["build_onnx", "export_onnx"]
