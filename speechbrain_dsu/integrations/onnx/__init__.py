"""Codecs as ONNX graphs."""
