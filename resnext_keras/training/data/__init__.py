"""Data sets: formats of images with labels, and batches for training."""
