"""What a network without its classifier is for: maps, vectors, and their reasons."""
