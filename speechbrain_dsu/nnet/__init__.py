"""Layers: quantizers, convolution arithmetic, losses."""
