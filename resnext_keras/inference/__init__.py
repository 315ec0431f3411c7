"""Prediction: folded batch norm, int8 quantization, and the engines."""
