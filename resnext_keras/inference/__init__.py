"""Networks for prediction alone: folded batch norm, int8, and the engines."""
