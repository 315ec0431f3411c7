"""Time and memory of this package's networks, side by side with its peers'.

Where TensorFlow has a GPU, torch's networks run on one too and what runs on
processors alone is left out; memory is the host's all the same. This has not been
run there yet.
"""
