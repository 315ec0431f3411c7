"""Weights: which sets are published, how files are found, read, checked and loaded."""
