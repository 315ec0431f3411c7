"""Data sets: where images and their labels come from, and batches of them."""
