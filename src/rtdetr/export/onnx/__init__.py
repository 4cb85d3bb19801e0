"""ONNX export: the network as a graph of operators."""

from rtdetr.export.onnx.export import build_onnx, write_onnx

__all__ = ["build_onnx", "write_onnx"]
