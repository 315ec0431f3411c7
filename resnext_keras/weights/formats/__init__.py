"""A reader for each format of weight files, and the writer of safetensors."""
