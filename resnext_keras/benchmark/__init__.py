"""Time and memory of this package's networks, side by side with its peers'.

Where TensorFlow has a GPU, torch's networks run on one too and what runs on
processors alone is left out; this has not been run there yet.
"""
