"""Weights: the published sets, downloads, file formats and loading."""
